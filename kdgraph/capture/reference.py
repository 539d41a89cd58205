"""What the model itself does, told by one run through ports: the truth a capture must match."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from kdgraph.capture.observe import version_of
from kdgraph.capture.ports import install_ports
from kdgraph.capture.record import Recorder, call_module, one_line, positional_names
from kdgraph.capture.taps import TapPath
from kdgraph.capture.twin import state_of, twin, written
from kdgraph.capture.world import World, quiet, worlds
from kdgraph.errors import CaptureError


@dataclass(frozen=True)
class Reference:
    """One run of the model.

    Attributes:
        world: the world it ran in.
        values: tap name to its fake value.
        differentiable: tap name to whether gradients flow back from it.
        overwritten: taps whose tensor the model changed in place after they were read.
        operators: the operators that ran, with their sizes.
        written: an attribute of the model that its code set, as a counter is, or None.
    """

    world: World
    values: dict[str, Tensor]
    differentiable: dict[str, bool]
    overwritten: frozenset[str]
    operators: Counter[str]
    written: str | None


def find_reference(
    module: nn.Module, inputs: Mapping[str, Tensor], taps: Mapping[str, TapPath]
) -> Reference:
    """Runs a twin of ``module`` once, on fake tensors where its code allows it.

    Raises:
        CaptureError: KD203, KD202, KD402, KD403, or KD405 when the model does not run.
    """
    positional = positional_names(module, inputs)
    failure: Exception | None = None
    for world in worlds(module, inputs):
        try:
            with quiet():
                return _run(world, taps, positional)
        except CaptureError:
            raise
        except Exception as error:  # whatever the model's code raises
            failure = error
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items())
    raise CaptureError.of(
        "KD405",
        f"{type(module).__name__} does not run on {shapes}: {one_line(failure)}",
    ) from failure


def overwritten_in_either_mode(reference: Reference, taps: Mapping[str, TapPath]) -> frozenset[str]:
    """The taps that are changed in place later in train or in eval mode; all, if unsure."""
    world = reference.world
    other = twin(world.module)
    for part in other.modules():
        part.training = not part.training
    positional = positional_names(world.module, world.inputs)
    try:
        return (
            reference.overwritten | _run(replace(world, module=other), taps, positional).overwritten
        )
    except Exception:  # whatever the model's code raises in that mode
        return frozenset(taps)


def _run(world: World, taps: Mapping[str, TapPath], positional: frozenset[str]) -> Reference:
    model = world.model()
    read: dict[str, tuple[Any, int]] = {}

    def keep(name: str, value: Any) -> None:
        if not isinstance(value, Tensor):
            raise CaptureError.of(
                "KD403",
                f"tap {taps[name].text!r} is a {type(value).__name__}, not a tensor",
                help=_parts(value, taps[name]),
            )
        read[name] = (value, version_of(value))

    recorder = Recorder(model, taps, keep)
    install_ports(model, taps, recorder)
    before = state_of(model)
    with world.running() as operators:
        call_module(model, world.inputs, positional)
    for name, tap in taps.items():
        if name not in read:
            calls = recorder.calls[id(model.get_submodule(tap.path))]
            raise CaptureError.of(
                "KD402", f"no tap {tap.text!r}: {tap.path!r} is called {calls} times here"
            )
    return Reference(
        world,
        {name: world.described(value) for name, (value, _) in read.items()},
        {name: value.requires_grad for name, (value, _) in read.items()},
        frozenset(name for name, (value, at) in read.items() if version_of(value) != at),
        operators,
        written(model, before),
    )


def _parts(value: Any, tap: TapPath) -> str | None:
    marked = tap.text if tap.path == "" or tap.side == "in" or tap.reach else f"{tap.text}:out"
    if isinstance(value, Mapping):
        found = [f"{marked}.{k}" for k, v in value.items() if isinstance(v, Tensor)]
    elif isinstance(value, (list, tuple)):
        found = [f"{tap.text}[{i}]" for i, v in enumerate(value) if isinstance(v, Tensor)]
    else:
        return None
    return f"its tensors are {', '.join(found)}" if found else None
