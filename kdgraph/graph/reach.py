"""How deep in its model a tap lies, and how much of the model's input a value of it sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary

from kdgraph.graph.distill_graph import DistillGraph, owner_of
from kdgraph.graph.fake_step import fake_forward
from kdgraph.graph.field import Field, after, start
from kdgraph.graph.ops import tap
from kdgraph.spec.language import Spec


@dataclass(frozen=True)
class Reach:
    """Where a tap lies.

    Attributes:
        depth: the share of the model's forward FLOPs that are done when the value is there, from
            0 to 1; None where the model has none that are counted.
        field: the effective receptive field over the size of the input, from 0 to 1, the mean over
            its dimensions: four standard deviations of what kernels of even weight look at, one
            after the other (Luo et al. 2016, arXiv 1701.04128), and no more than they can see; 1
            behind attention and global pooling. Gates by something pooled are left aside. None
            where the input has no dimension to look along.
    """

    depth: float | None
    field: float | None


def reaches(graph: DistillGraph, batch: Mapping[str, Tensor]) -> dict[str, Reach]:
    """Of every tap in a graph, by reference; runs its models once on fake tensors.

    Args:
        graph: one in which taps are resolved and no model was rewritten.
        batch: entries by name; only their shapes and types are looked at.

    Raises:
        CannotRun: where some code asks for the values of a tensor.
    """
    watch = _Watch(graph.spec, len(next(iter(batch.values()))))
    fake_forward(graph, batch, watch, watch.at)
    return {ref: watch.reach(value, owner) for ref, (value, owner) in watch.taps.items()}


@dataclass(frozen=True)
class _Seen:
    """What is known of a tensor: its field, and the FLOPs of the model when it was made."""

    field: Field | None
    flops: int


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped there
    """Follows tensors through operators; ``at`` is told of each node and what it reads."""

    def __init__(self, spec: Spec, rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped there
        self.spec, self.rows = spec, rows
        self.owner = ""
        self.taps: dict[str, tuple[Any, str]] = {}
        self.flops: Counter[str] = Counter()
        self.seen: Any = WeakTensorKeyDictionary()
        self._whole: set[Any] = set()
        self._formulas = FlopCounterMode(display=False).flop_registry

    def at(self, node: fx.Node, value: Any) -> None:
        """Before a node runs: ``value`` is the batch entry it gives, or its first argument's."""
        self.owner = owner_of(node)
        if node.op == "placeholder":
            self.seen[value] = _Seen(start(_axes(self.spec, str(node.target), value)), 0)
        elif node.target is tap:
            self.taps[str(node.args[1])] = value, owner_of(node.all_input_nodes[0])

    def reach(self, value: Any, owner: str) -> Reach:
        """Of what a tap gave."""
        found = self.seen.get(value) if isinstance(value, Tensor) else None
        if found is None:
            return Reach(None, None)
        whole = self.flops[owner]
        field = None if found.field is None else found.field.share
        return Reach(found.flops / whole if whole else None, field)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # a question about a tensor
            return func(*args, **kwargs)
        if func not in self._whole:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            self._whole.add(func)
        result = func(*args, **kwargs)
        if (formula := self._formulas.get(func._overloadpacket)) is not None:
            self.flops[self.owner] += int(formula(*args, **kwargs, out_val=result))
        read = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        known = [(t, s) for t in read if (s := self.seen.get(t)) is not None]
        if known:
            self._note(func, args, result, known)
        return result

    def _note(
        self, func: Any, args: Any, result: Any, known: Sequence[tuple[Tensor, _Seen]]
    ) -> None:
        fields = [(t, s.field) for t, s in known if s.field is not None]
        counted = func._overloadpacket in self._formulas
        # what is not counted makes nothing deeper, whatever has run beside it in the meantime
        flops = self.flops[self.owner] if counted else max(s.flops for _, s in known)
        for value in pytree.tree_leaves(result):
            if isinstance(value, Tensor):
                field = after(func, args, value, fields, self.rows) if fields else None
                self.seen[value] = _Seen(field, flops)


def _axes(spec: Spec, name: str, value: Tensor) -> tuple[int, ...]:
    """The sizes along which a batch entry can be looked at: pixels, tokens, moments."""
    written = spec.batch[name].shape
    sizes = zip(value.shape[1:], written[1:], strict=True)
    free = [size for size, letter in sizes if isinstance(letter, str)]
    if value.dim() == 3 and value.is_floating_point() and free:
        return tuple(free)  # [B, T, F]: along time, not along what is measured at each moment
    return tuple(value.shape[1 if value.dim() == 2 else 2 :])
