"""From a module and its taps to a graph, by the first means that works.

``fx``      opens the modules that have a tap inside and leaves all others whole
``export``  the whole model as operators, by ``torch.export``
``ports``   the model stays as it is and hands the tapped values out
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdgraph.capture.exporting import export
from kdgraph.capture.functionalise import functionalise
from kdgraph.capture.observe import Observed, RawCapture, observe
from kdgraph.capture.ports import ports
from kdgraph.capture.record import Declined, one_line
from kdgraph.capture.reference import Reference, find_reference, overwritten_in_either_mode
from kdgraph.capture.taps import TapPath, resolve_taps
from kdgraph.capture.tracing import trace
from kdgraph.capture.twin import state_of, twin, written
from kdgraph.capture.world import World
from kdgraph.errors import CaptureError

RUNGS = ("fx", "export", "ports")
Taps = Mapping[str, TapPath]
Free = Mapping[str, Collection[int]]


@dataclass(frozen=True)
class Captured:
    """A model as a graph.

    Attributes:
        rung: how it was captured: ``fx``, ``export`` or ``ports``.
        graph: placeholders are the inputs, the output is a dictionary of every tap.
            Each node has ``meta["val"]`` (its fake value) and ``meta["kd_path"]`` (the path of
            the module it comes from); ``meta["kd_mutates"]`` marks the nodes that write to a
            value or a buffer that is used elsewhere and so must not be removed or moved.
        root: the module given; targets of the graph are attribute paths of it,
        extras: save for these tensors, made while it was captured,
        modules: and these modules.
        declined: the rungs tried before, with the reason why each would not do.
        nodes: number of nodes that compute.
        seconds: time that the capture took.
        mode_dependent: whether the graph holds only in the mode (train or eval) it was
            captured in. Submodules left whole follow their own mode in any case.
    """

    rung: str
    graph: fx.Graph
    root: nn.Module
    extras: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    declined: tuple[tuple[str, str], ...] = ()
    nodes: int = 0
    seconds: float = 0.0
    mode_dependent: bool = False

    def graph_module(self) -> fx.GraphModule:
        """The capture as a module of its own; tensors and submodules are those of ``root``."""
        attributes: dict[str, Any] = {**self.extras, **self.modules}
        for node in self.graph.nodes:
            if node.op in ("get_attr", "call_module") and node.target not in attributes:
                attributes[node.target] = _attribute(self.root, node.target)
        return fx.GraphModule(attributes, self.graph)


def capture(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    taps: Mapping[str, str],
    *,
    free: Mapping[str, Collection[int]] | None = None,
    rungs: Sequence[str] = RUNGS,
) -> Captured:
    """Captures ``module`` as a graph from ``inputs`` to ``taps``.

    The module is not changed: not its modes, buffers, attributes or hooks, and no random number
    is drawn. It is captured in the mode that it is in.

    Args:
        module: the model.
        inputs: argument name of its forward to an example tensor, which may be fake. The first
            size of each is the batch, which stays free in the graph.
        taps: tap name to tap path.
        free: argument name to further dimensions that stay free (a length, a height).
        rungs: the means to try, in order.

    Returns:
        The first capture that agrees with the module.

    Raises:
        CaptureError: KD201, KD202, KD203 for a name that is not there, KD401 for a tap that
            does not parse, KD402 for a tap that is never reached, KD403 for one that is not a
            tensor, KD404 when no rung takes the model, KD405 when the model does not run.
    """
    start = time.perf_counter()
    paths = resolve_taps(module, taps)
    reference = find_reference(module, inputs, paths)
    declined: list[tuple[str, str]] = []
    for rung in rungs:
        try:
            raw = _RUNGS[rung](module, reference, paths, free or {})
        except CaptureError:
            raise
        except Declined as reason:
            declined.append((rung, str(reason)))
            continue
        except Exception as error:  # the model's own code may raise anything while it is traced
            declined.append((rung, f"{type(error).__name__}: {one_line(error)}"))
            continue
        return Captured(
            rung,
            raw.graph,
            module,
            extras=raw.extras,
            modules=raw.modules(module),
            declined=tuple(declined),
            nodes=sum(n.op not in ("placeholder", "get_attr", "output") for n in raw.graph.nodes),
            seconds=time.perf_counter() - start,
            mode_dependent=raw.mode_dependent,
        )
    reasons = "; ".join(f"{rung}: {reason}" for rung, reason in declined)
    raise CaptureError.of("KD404", f"{type(module).__name__} cannot be captured ({reasons})")


def open_module(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    opens: Callable[[nn.Module], bool],
    taps: Mapping[str, str] | None = None,
) -> RawCapture:
    """A module as a graph, open wherever ``opens`` says so, and where there is a tap inside.

    The graph holds in the mode that the module is in. Its output is ``{"output": node}``, the
    single result of the module, or a dictionary of ``taps``.

    Raises:
        Declined, CaptureError: or whatever the module's own code raises while it is traced.
    """
    paths = resolve_taps(module, taps or {"output": "output"})
    return _by_fx(module, find_reference(module, inputs, paths), paths, {}, opens)


def _by_fx(
    module: nn.Module,
    reference: Reference,
    taps: Taps,
    free: Free,
    opens: Callable[[nn.Module], bool] | None = None,
) -> RawCapture:
    world, copy = reference.world, twin(module)
    before = state_of(copy)
    graph, extras, ran = trace(copy, world.inputs, taps, opens)
    if (name := written(copy, before)) is not None:
        raise Declined(f"the opened code writes to {name}")
    one_mode = opens is not None or _differs_in_other_mode(graph, extras, module, world, taps)
    raw = RawCapture(graph, extras, mode_dependent=one_mode)
    seen = observe(raw, world)
    # What ran while tracing is in the constants; everything else must be in the graph. This
    # finds code that took another branch because it was handed proxies instead of tensors.
    ran += seen.operators
    if ran != reference.operators:
        different = (reference.operators - ran) or (ran - reference.operators)
        raise Declined(f"the traced code differs from the model at {min(different)[:100]}")
    return _finished(raw, reference, seen)


def _differs_in_other_mode(
    graph: fx.Graph, extras: Mapping[str, Tensor], module: nn.Module, world: World, taps: Taps
) -> bool:
    other = twin(module)
    for part in other.modules():
        part.training = not part.training
    try:
        then, constants, _ = trace(other, world.inputs, taps)
        if extras.keys() != constants.keys() or _told(then) != _told(graph):
            return True
        return not all(torch.equal(value, constants[name]) for name, value in extras.items())
    except Exception:  # cannot be traced in that mode
        return True


def _told(graph: fx.Graph) -> list[str]:
    return [node.format_node() or "" for node in graph.nodes]


def _by_export(module: nn.Module, reference: Reference, taps: Taps, free: Free) -> RawCapture:
    if reference.written is not None:
        raise Declined(f"the code writes to {reference.written}")
    graph, extras, modules = export(module, reference.world.inputs, taps, free)
    # Every flag of the mode is a constant of an exported graph.
    raw = RawCapture(graph, extras, lambda root: modules, mode_dependent=True)
    return _finished(raw, reference, observe(raw, reference.world))


def _by_ports(module: nn.Module, reference: Reference, taps: Taps, free: Free) -> RawCapture:
    world = reference.world
    raw = ports(tuple(world.inputs), taps, overwritten_in_either_mode(reference, taps))
    return _finished(raw, reference, observe(raw, world))


def _finished(raw: RawCapture, reference: Reference, seen: Observed) -> RawCapture:
    output: Any = raw.graph.output_node().args[0]
    for name, expected in reference.differentiable.items():
        if seen.values[output[name]].requires_grad != expected:
            raise Declined(f"tap {name!r} has {'lost its' if expected else 'got a'} gradient")
    functionalise(raw, reference.world, seen)
    output = raw.graph.output_node().args[0]
    for name, true in reference.values.items():
        value = output[name].meta["val"]
        if (value.shape, value.dtype) != (true.shape, true.dtype):
            raise Declined(
                f"tap {name!r} comes out as {tuple(value.shape)} {value.dtype},"
                f" not {tuple(true.shape)} {true.dtype}"
            )
    return raw


_RUNGS: dict[str, Callable[..., RawCapture]] = {
    "fx": _by_fx,
    "export": _by_export,
    "ports": _by_ports,
}


def _attribute(root: nn.Module, target: str) -> Any:
    return operator.attrgetter(target)(root)
