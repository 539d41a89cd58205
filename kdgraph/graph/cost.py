"""What a training step costs, before it runs: FLOPs, memory traffic, activations, peak memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Self, TypeVar

from torch import Tensor, fx, nn

from kdgraph.graph.distill_graph import DistillGraph, Role, owner_of, role_of
from kdgraph.graph.example import example_batch
from kdgraph.graph.fake_step import CannotRun, FakeStep, fake_step
from kdgraph.graph.meter import Held, bytes_of, pieces, storage_of
from kdgraph.graph.resident import packed_bytes, resident, weights

__all__ = ["CannotRun", "Cost", "Memory", "NodeCost", "cost"]

K = TypeVar("K")


@dataclass(frozen=True)
class NodeCost:
    """The cost of a node, or of several together.

    Attributes:
        flops_forward, flops_backward: as torch's ``FlopCounterMode`` counts them: 2 for each
            multiplication with its addition, in matrix products, convolutions and attention.
        bytes_forward, bytes_backward: what operators read and write.
        kept_bytes: memory made in the forward that is held until the backward needs it.
        parameters: elements of the parameters read here and nowhere before; of what passes made
            of frozen models too.
    """

    flops_forward: int = 0
    flops_backward: int = 0
    bytes_forward: int = 0
    bytes_backward: int = 0
    kept_bytes: int = 0
    parameters: int = 0

    @property
    def flops(self) -> int:
        """Forward and backward together."""
        return self.flops_forward + self.flops_backward

    @property
    def bytes_moved(self) -> int:
        """Forward and backward together."""
        return self.bytes_forward + self.bytes_backward

    def __add__(self, other: Self) -> Self:
        sums = (getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        return type(self)(*sums)


@dataclass(frozen=True)
class Memory:
    """Bytes held at the moment of the step at which most is held; the optimiser's not among them.

    Attributes:
        trained: parameters that are trained.
        frozen: parameters that are not, as far as they are needed, in the form passes gave them.
        packed: weights of fused convolutions once more, in the order that a CPU's library wants.
        buffers: running statistics and constants.
        batch: the batch.
        gradients: gradients of parameters; by the end of the backward there are all of them.
        kept: what the forward made and the backward will read.
        outputs: what the step returns, where the backward does not need it.
        temporary: all else.
    """

    trained: int
    frozen: int
    packed: int
    buffers: int
    batch: int
    gradients: int
    kept: int
    outputs: int
    temporary: int

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True)
class Cost:
    """The cost of one step.

    Attributes:
        graph: what it is the cost of.
        nodes: by name of the node.
        memory: what is held at the peak.
        dtypes: of the value of each node that is a tensor.
    """

    graph: DistillGraph
    nodes: Mapping[str, NodeCost]
    memory: Memory
    dtypes: Mapping[str, str]

    @property
    def total(self) -> NodeCost:
        """The whole step."""
        return sum(self.nodes.values(), NodeCost())

    @property
    def peak_bytes(self) -> int:
        """The most memory that is held at any moment of the step, without optimiser state."""
        return self.memory.peak

    def by_role(self) -> dict[Role, NodeCost]:
        """Sums for teachers, students, adapters, signals, losses, ..., in order of the graph."""
        return self._by(role_of)

    def by_owner(self) -> dict[str, NodeCost]:
        """Sums for each model (``teacher``), adapter, signal and loss edge (``losses.soft``)."""
        return self._by(owner_of)

    def _by(self, key: Callable[[fx.Node], K]) -> dict[K, NodeCost]:
        sums: dict[K, NodeCost] = defaultdict(NodeCost)
        for node in self.graph:
            if node.name in self.nodes:
                sums[key(node)] += self.nodes[node.name]
        return dict(sums)


def cost(graph: DistillGraph, batch: int | None = None) -> Cost:
    """Works out what a step costs by running it on fake tensors; takes no arithmetic.

    Args:
        graph: a graph that ends in a loss; its models need no weights.
        batch: rows in the batch; left out, or where the spec fixes it: as in ``example_batch``.

    Raises:
        CannotRun: where the code of a model asks for values of tensors.
    """
    entries = example_batch(graph.spec, batch=batch)
    step = fake_step(graph, entries)
    meter = step.meter
    kept: Counter[str] = Counter()
    for held in step.kept:
        kept[held.node] += held.size
    counted: set[int] = set()
    nodes = {
        node.name: NodeCost(
            meter.flops[node.name, False],
            meter.flops[node.name, True],
            meter.moved[node.name, False],
            meter.moved[node.name, True],
            kept[node.name],
            sum(p.numel() for p in weights(graph, node) if not _seen(id(p), counted)),
        )
        for node in graph
        if node.op not in ("placeholder", "output")
    }
    return Cost(graph, nodes, _memory(graph, step, entries), meter.dtypes)


def _memory(graph: DistillGraph, step: FakeStep, batch: Mapping[str, Tensor]) -> Memory:
    """What is held at the peak, each piece of memory under one head."""
    sizes = Counter[str]()
    counted: set[int] = set()
    frozen = {id(t) for node in graph for t in weights(graph, node)}
    for value in resident(graph):
        head = "frozen" if isinstance(value, nn.Parameter) or id(value) in frozen else "buffers"
        for piece in pieces(value):
            if not _seen(storage_of(piece), counted):
                storage = piece.untyped_storage().nbytes()
                sizes["trained" if value.requires_grad else head] += storage
    sizes["packed"] = packed_bytes(graph)
    sizes["batch"] = sum(bytes_of(value) for value in batch.values())
    heads = {id(held): "outputs" for held in step.handed_out}
    heads |= {id(held): "kept" for held in step.kept}
    heads |= {id(held): "gradients" for held in step.gradients}
    peak = _fullest(step.meter.held)
    for held in step.meter.held:
        if held.lives_at(peak):
            sizes[heads.get(id(held), "temporary")] += held.size
    return Memory(**{field.name: sizes[field.name] for field in fields(Memory)})


def _fullest(made: Iterable[Held]) -> int:
    """The time at which what lives is largest together."""
    changes: list[tuple[int, int]] = []
    for held in made:
        changes.append((held.made, held.size))
        if held.freed is not None:
            changes.append((held.freed, -held.size))
    peak = best = now = 0
    for time, change in sorted(changes):
        now += change
        if now > best:
            peak, best = time, now
    return peak


def _seen(number: int, before: set[int]) -> bool:
    """Whether a number is in ``before``; it is from then on."""
    known = number in before
    before.add(number)
    return known
