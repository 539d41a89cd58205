"""Watches operators run: what each one computes, moves and makes, and how long that lives."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils.flop_counter import FlopCounterMode


@dataclass
class Held:
    """The memory of one tensor (and of all views of it).

    Attributes:
        size: bytes.
        node: name of the node at work when it was made.
        backward: whether it was made in the backward.
        made: when, on the meter's clock.
        freed: when it was let go; None where it outlived the step.
    """

    size: int
    node: str
    backward: bool
    made: int
    freed: int | None = None

    def lives_at(self, time: int) -> bool:
        """Whether it is held once ``time`` has passed."""
        return self.made <= time and (self.freed is None or self.freed > time)


Key = tuple[str, bool]


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped there
    """Counts under ``(node, backward)``, which whoever runs the step keeps up to date.

    FLOPs are those of torch's ``FlopCounterMode``: matrix products, convolutions and attention;
    all other operators count as none. Bytes moved are those of the tensors that an operator
    reads and writes; views move none. Meant for fake tensors, on which nothing is computed.

    Args:
        given: tensors that are there before the step; their memory is not counted.

    Attributes:
        node: name of the node at work.
        backward: whether its backward is.
        flops, moved: by node and direction.
        held: every piece of memory that was made, in order.
        dtypes: of the tensors that nodes give; whoever runs the step notes them.
        time: counts what was made and freed.
    """

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped there
        self.node, self.backward = "", False
        self.flops: Counter[Key] = Counter()
        self.moved: Counter[Key] = Counter()
        self.held: list[Held] = []
        self.dtypes: dict[str, str] = {}
        self.time = 0
        self._whole: set[Any] = set()
        self._formulas = FlopCounterMode(display=False).flop_registry
        self._live: dict[int, tuple[weakref.ref[Any], Held] | None] = {
            storage_of(piece): None for value in given for piece in pieces(value)
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # a question about a tensor
            return func(*args, **kwargs)
        if func not in self._whole:
            with self:  # what is made of other operators is counted by those
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            self._whole.add(func)
        result = func(*args, **kwargs)
        key = self.node, self.backward
        if (formula := self._formulas.get(func._overloadpacket)) is not None:
            self.flops[key] += int(formula(*args, **kwargs, out_val=result))
        read, made = _tensors((args, kwargs)), _tensors(result)
        if func._schema.is_mutable or {*map(storage_of, made)} - {*map(storage_of, read)}:
            self.moved[key] += sum(map(bytes_of, [*read, *made]))
        for value in made:
            self._hold(value)
        return result

    def _hold(self, value: Tensor) -> None:
        storage, key = value.untyped_storage(), storage_of(value)
        if key in self._live:
            return
        held = Held(storage.nbytes(), self.node, self.backward, self._tick())
        self.held.append(held)

        def let_go(_: object) -> None:
            held.freed = self._tick()
            self._live.pop(key, None)

        self._live[key] = weakref.ref(storage, let_go), held

    def memory_of(self, value: Tensor) -> Held | None:
        """The memory that a tensor lies in; None where it was given."""
        found = self._live.get(storage_of(value))
        return None if found is None else found[1]

    def _tick(self) -> int:
        self.time += 1
        return self.time


def _tensors(value: Any) -> list[Tensor]:
    leaves = (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
    return [piece for leaf in leaves for piece in pieces(leaf)]


def pieces(value: Tensor) -> list[Tensor]:
    """The tensors that hold the numbers of ``value``: itself, or what a quantised one wraps."""
    wrapper: Any = value
    if not is_traceable_wrapper_subclass(wrapper):
        return [value]
    names, _ = wrapper.__tensor_flatten__()
    return [piece for name in names for piece in pieces(getattr(wrapper, name))]


def storage_of(value: Tensor) -> int:
    """A number that all views of one tensor share."""
    return int(value.untyped_storage()._cdata)


def bytes_of(value: Tensor) -> int:
    """What reading a tensor moves; no more than there is of an expanded one."""
    return min(value.numel() * value.element_size(), value.untyped_storage().nbytes())
