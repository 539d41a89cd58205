"""What can be tapped in a model, with shapes, from one run on fake tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdgraph.capture.ports import make_port
from kdgraph.capture.record import call_module, one_line, positional_names
from kdgraph.capture.world import worlds
from kdgraph.errors import CaptureError


@dataclass(frozen=True)
class TapInfo:
    """One submodule that runs, and the tensors its first call returns.

    Attributes:
        path: dotted path; empty for the model itself.
        module_type: name of its class.
        taps: tap path of each tensor in the result, ready to be written in a spec.
        shapes: size of each.
        dtypes: type of each, such as ``float32``.
        calls: how often it is called in one forward.
    """

    path: str
    module_type: str
    taps: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    calls: int


def list_taps(module: nn.Module, inputs: Mapping[str, Tensor]) -> list[TapInfo]:
    """Every submodule that runs, in the order in which they return.

    Args:
        module: the model; it is not changed and no hook is put on it.
        inputs: argument name of its forward to an example tensor, which may be fake.

    Raises:
        CaptureError: KD203 for a wrong argument name, KD405 when the model does not run.
    """
    positional = positional_names(module, inputs)
    failure: Exception | None = None
    for world in worlds(module, inputs):
        model = world.model()
        calls = _Calls()
        paths = {id(part): (path, type(part).__name__) for path, part in model.named_modules()}
        for part in list(model.modules()):
            if not isinstance(part, torch.jit.ScriptModule):
                make_port(part, calls)
        try:
            with world.running():
                call_module(model, world.inputs, positional)
        except Exception as error:  # whatever the model's code raises
            failure = error
            continue
        return [
            _info(*paths[key], result, calls.number[key]) for key, result in calls.results.items()
        ]
    raise CaptureError.of(
        "KD405", f"{type(module).__name__} does not run: {one_line(failure)}"
    ) from failure


class _Calls:
    """Takes the place of a recorder and keeps the first result of every module."""

    def __init__(self) -> None:
        self.number: dict[int, int] = {}
        self.results: dict[int, list[tuple[str, Tensor]]] = {}

    def enter(self, key: int, args: Any, kwargs: Any) -> int:
        self.number[key] = self.number.get(key, 0) + 1
        return self.number[key]

    def leave(self, key: int, call: int, result: Any) -> None:
        if call == 1:
            self.results[key] = list(_parts("", result))


def _parts(reach: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield reach, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _parts(f"{reach}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _parts(f"{reach}[{i}]", item)
    elif hasattr(value, "__dataclass_fields__"):
        for key in value.__dataclass_fields__:
            yield from _parts(f"{reach}.{key}", getattr(value, key))


def _info(path: str, kind: str, parts: list[tuple[str, Tensor]], calls: int) -> TapInfo:
    def text(reach: str) -> str:
        if path == "":
            return f"output{reach}"
        return f"{path}:out{reach}" if reach.startswith(".") else f"{path}{reach}"

    return TapInfo(
        path,
        kind,
        tuple(text(reach) for reach, _ in parts),
        tuple(tuple(value.shape) for _, value in parts),
        tuple(str(value.dtype).removeprefix("torch.") for _, value in parts),
        calls,
    )
