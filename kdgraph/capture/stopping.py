"""Finds out whether a model that runs as it is may stop once its last tap has been read.

Two runs of it on fake tensors, or on copies, are compared: one to the end and one broken off.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdgraph.capture.observe import storage_of, version_of
from kdgraph.capture.ports import PortModel
from kdgraph.capture.record import Declined, tensors_in
from kdgraph.capture.world import World, quiet, worlds


def shorten(port: PortModel, names: Collection[str], inputs: Mapping[str, Tensor]) -> PortModel:
    """``port`` with only the taps in ``names``, which stops when the last of them has been read.

    The original is not changed. Submodules that ran to the end only are in ``unused`` of the
    result; one that never ran at all, as a branch not taken, is not.

    Args:
        port: a model that hands its taps out.
        names: the taps that are needed, at least one.
        inputs: argument name of the model's forward to an example tensor, which may be fake.

    Raises:
        Declined: when it has to run to the end: nothing is left out otherwise, or what comes
            behind the last tap matters to the next run.
    """
    short = cut(port, names, stops=True)
    if any(module._forward_hooks for module in short.copies()):
        raise Declined("a hook waits for a module that would be broken off")
    whole, part = _both(cut(port, names), short, inputs)
    if part.operators == whole.operators:
        return cut(port, names)  # nothing runs past its last tap
    changed = part.left.items() ^ whole.left.items()
    if odd := {name for name, _ in changed} | (part.made - whole.made):
        raise Declined(f"the code past its last tap sets {min(odd)}")
    late = {name for name in whole.written if whole.written[name] != part.written.get(name)}
    if late & part.used:
        raise Declined(f"the code past its last tap writes to {min(late & part.used)}")
    unused = _unused(port.original, whole.used, part.used)
    return cut(port, names, stops=True, unused=unused)


def cut(
    port: PortModel, names: Collection[str], *, stops: bool = False, unused: Collection[Any] = ()
) -> PortModel:
    """``port`` with only the taps in ``names``."""
    taps = {name: tap for name, tap in port.taps.items() if name in names}
    copied = port.copied.intersection(taps)
    return PortModel(port.original, port.names, taps, copied, stops=stops, unused=unused)


@dataclass(frozen=True)
class _Run:
    """What one run of a model did.

    Attributes:
        used: names of its tensors that an operator was given.
        written: names of its tensors that were written to, with how often.
        left: what its code set anew: numbers, words and functions of its parts, by name.
        made: names of what its code added to them.
        operators: number of operators that ran.
    """

    used: frozenset[str]
    written: dict[str, int]
    left: dict[str, str]
    made: set[str]
    operators: int


def _both(whole: PortModel, part: PortModel, inputs: Mapping[str, Tensor]) -> tuple[_Run, _Run]:
    for world in worlds(whole.original, inputs):
        try:
            with quiet():
                return _run(whole, world), _run(part, world)
        except Exception:  # code that asks for values, on fake tensors
            continue
    raise Declined("it does not run on an example batch")


def _run(port: PortModel, world: World) -> _Run:
    model = world.model()
    twin = PortModel(model, port.names, port.taps, port.copied, stops=port.stops)
    tensors = {**dict(_named(model, "_parameters")), **dict(_named(model, "_buffers"))}
    versions = {name: version_of(value) for name, value in tensors.items()}
    before, log = _state(twin), _Storages()
    with world.running(), log:
        twin(*(world.inputs[name] for name in port.names))
    after = _state(twin)
    written = {name: version_of(t) - versions[name] for name, t in tensors.items()}
    return _Run(
        frozenset(name for name, t in tensors.items() if storage_of(t) in log.seen),
        {name: times for name, times in written.items() if times},
        {k: str(after.get(k)) for k, v in before.items() if after.get(k) != v},
        after.keys() - before.keys(),
        log.count,
    )


def _named(model: nn.Module, kind: str) -> list[tuple[str, Tensor]]:
    return [
        (f"{path}.{key}".lstrip("."), value)
        for path, part in model.named_modules(remove_duplicate=False)
        for key, value in vars(part)[kind].items()
        if value is not None
    ]


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped there
    """Notes which storages operators are given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped there
        self.seen: set[int] = set()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.count += 1
        self.seen.update(storage_of(t) for t in (*tensors_in(args), *tensors_in(kwargs)))
        return func(*args, **kwargs)


_PLAIN = (bool, int, float, str, types.FunctionType, types.MethodType)


def _state(port: PortModel) -> dict[str, Any]:
    """What the code of a model may set and find again in its next run.

    Of a tensor only that it is there: one that is kept from run to run is another each time.
    """
    found: dict[str, Any] = {}
    for path, part in port.running():
        for key, value in vars(part).items():
            if isinstance(value, Tensor):
                found[f"{path}.{key}".lstrip(".")] = None
            elif isinstance(value, _PLAIN) and key != "training":
                found[f"{path}.{key}".lstrip(".")] = value
    return found


def _unused(module: nn.Module, whole: frozenset[str], part: frozenset[str]) -> set[nn.Module]:
    """The modules whose tensors were all used at the end only."""
    late: dict[nn.Module, bool] = {}
    for path, current in reversed(list(module.named_modules(remove_duplicate=False))):
        own = [*current._parameters, *current._buffers]
        names = {f"{path}.{key}".lstrip(".") for key in own}
        parts = [late[child] for child in current.children()]
        late[current] = (
            not names & part and all(parts) and (bool(names & whole) or (not names and bool(parts)))
        )
    return {current for current, found in late.items() if found}
