"""What a drawing of a compiled spec shows: boxes in clusters, and arrows.

Models are folded: a box is a stretch of a model up to its next tap, so that taps show and
little else. Whatever the passes left out of the graph is drawn faded.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import networkx as nx
from torch import fx

from kdgraph.capture import parse_tap
from kdgraph.graph import Role, owner_of, role_of, shape_of
from kdgraph.graph.ops import apart, tap
from kdgraph.passes.manager import Record
from kdgraph.runtime.report import Report
from kdgraph.spec.calls import Together, plain, together
from kdgraph.visual.calls import joined, joins, parted
from kdgraph.visual.words import (
    adapters,
    entry_words,
    path_words,
    shape_words,
    total_words,
    weight_words,
)


@dataclass(frozen=True)
class Box:
    """One box. ``cluster`` is the model it lies in; ``taps`` are read from its result.

    ``nodes`` are the graph's that it folds, in order.
    """

    id: str
    title: str
    lines: tuple[str, ...]
    role: Role
    cluster: str | None = None
    taps: tuple[str, ...] = ()
    faded: bool = False
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arrow:
    """Data that flows from one box to another; its role is that of where it comes from."""

    source: str
    target: str
    role: Role
    faded: bool = False


@dataclass(frozen=True)
class Cluster:
    """A model: the frame around its boxes."""

    name: str
    title: str
    role: Role


@dataclass(frozen=True)
class Picture:
    """A folded graph; boxes stand in the order of the data flow."""

    name: str
    clusters: tuple[Cluster, ...]
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def picture(report: Report, *, depth: int = 0, passes: int | None = None) -> Picture:
    """Folds the graph of a report.

    Args:
        report: of a compilation.
        depth: 0 draws one box from tap to tap; N > 0 one for each module N levels deep.
        passes: the graph as it was behind so many of them; left out: behind all.
    """
    return _Fold(report, depth, report.records[:passes]).picture()


class _Fold:
    """Sorts nodes into boxes, then draws the arrows between boxes."""

    def __init__(self, report: Report, depth: int, records: Sequence[Record]) -> None:
        self.records = records
        self.spec = report.spec
        self.depth = depth
        self.graph = records[-1].after
        self.adapters = adapters(report)
        self.boxes: list[Box] = []
        self.box_of: dict[str, str] = {}  # node name to box id

    def picture(self) -> Picture:
        for node in self.graph.graph.find_nodes(op="placeholder"):
            name = str(node.target)
            sizes = ", ".join(map(str, self.spec.batch[name].shape))
            source = ("from the book",) if name in self.spec.booked else ()
            self._add(Box(node.name, name, (f"[{sizes}]", *source), "batch"), node)
        for model in self.spec.networks:
            self._model(model)
        for node in self.graph:
            if role_of(node) in ("adapter", "signal", "loss", "total") and node.op != "output":
                self._part(node)
        arrows = [*self._reduced(list(dict.fromkeys(self._arrows()))), *self._cut()]
        shown = {a.source for a in arrows} | {a.target for a in arrows}
        clusters = [self._cluster(m) for m in self.spec.networks]
        boxes = [b for b in self.boxes if b.id in shown]
        return Picture(self.spec.name, tuple(clusters), tuple(boxes), tuple(arrows))

    def _cluster(self, model: str) -> Cluster:
        written = self.spec.models[model]
        role: Role = "student" if self.spec.is_trainable(model) else "teacher"
        made = f"snapshot of {written.snapshot_of}" if written.snapshot_of else written.source
        return Cluster(model, f"{model}  {made or ''}".rstrip(), role)

    def _add(self, box: Box, *nodes: fx.Node) -> None:
        self.boxes.append(replace(box, nodes=tuple(n.name for n in nodes)))
        self.box_of.update((n.name, box.id) for n in nodes)

    def _shape(self, node: fx.Node) -> str:
        owner = owner_of(node)
        batches = len(together(self.spec, owner).batches) if owner in self.spec.networks else 1
        return shape_words(shape_of(node), self.spec, batches)

    def _model(self, model: str) -> None:
        """The boxes of a network; of several calls, where they come together and part as well."""
        calls, behind = together(self.spec, model), parted(self.graph, model)
        for stretch in self._stretches(calls, set(behind)):
            self._stretch(model, stretch)
        rows: dict[tuple[fx.Node, str], list[fx.Node]] = {}
        for node, name in behind.items():
            part = node
            while part.target is not apart:
                part = part.all_input_nodes[0]
            rows.setdefault((part, name), []).append(node)
        for (part, name), nodes in rows.items():
            self.box_of[part.name] = self.box_of[part.all_input_nodes[0].name]
            passes = self.spec.models[name].passes if name in self.spec.models else None
            lines = (f"{passes} passes" if passes else "rows of this call", self._shape(nodes[-1]))
            taps = tuple(dict.fromkeys(t for n in nodes for t in self._taps(n)))
            box = Box(f"{model}_{nodes[0].name}", name, lines, role_of(part), model, taps)
            self._add(box, *nodes)

    def _stretches(self, calls: Together, behind: set[fx.Node]) -> Iterator[list[fx.Node]]:
        """A network's nodes in order, cut behind each tap and where the folded path changes.

        Nodes in a row always make an acyclic picture, whatever modules they come from.
        """
        model = calls.models[0]
        taps = [path for m in calls.models for path in self.spec.models[m].taps.values()]
        inside = [path for t in taps if (path := parse_tap(t).path) != "output"]
        stretch: list[fx.Node] = []
        for node in self.graph:
            if owner_of(node) != model or node.op == "get_attr" or node.target in (tap, apart):
                continue
            if node in behind:
                continue
            if stretch and self._key(stretch[-1], inside) != self._key(node, inside):
                yield stretch
                stretch = []
            stretch.append(node)
            if self._taps(node) or joins(node) or any(u.target is apart for u in node.users):
                yield stretch
                stretch = []
        if stretch:
            yield stretch

    def _key(self, node: fx.Node, tapped: list[str]) -> str:
        path = str(node.meta.get("kd_path", ""))
        around = [t for t in tapped if path == t or path.startswith(f"{t}.")]
        if around:
            return max(around, key=len)
        return ".".join(path.split(".")[: self.depth])

    def _taps(self, node: fx.Node) -> tuple[str, ...]:
        names = (str(u.args[1]) for u in node.users if u.target is tap)
        return tuple(dict.fromkeys(plain(n).partition(".")[2] for n in names))

    def _stretch(self, model: str, nodes: list[fx.Node]) -> None:
        role = role_of(nodes[-1])
        paths = [str(n.meta.get("kd_path", "")) for n in nodes]
        modules = [n for n in nodes if n.op == "call_module"]
        taps = self._taps(nodes[-1])
        title = path_words(paths) or nodes[-1].name
        what = f"{len(nodes)} {'modules' if len(nodes) == len(modules) else 'operations'}"
        if joins(nodes[-1]):
            title, what = "together", ", ".join(joined(nodes[-1]))
        elif len(nodes) == len(modules) == 1:
            what = type(self.graph.root.get_submodule(str(nodes[0].target))).__name__
        lines = tuple(line for line in (what, self._shape(nodes[-1])) if line)
        name = f"{model}_{nodes[0].name}"
        self._add(Box(name, title, lines, role, model, taps), *nodes)

    def _part(self, node: fx.Node) -> None:
        """A box for each adapter, signal and loss, whatever the number of its nodes."""
        owner = owner_of(node)
        if owner == "total":
            self._add(Box("total", "total", (total_words(self.spec),), "total"), node)
            return
        part, _, name = owner.partition(".")
        key = f"{part}_{name}"
        at = next((i for i, b in enumerate(self.boxes) if b.id == key), None)
        if at is None:
            self._add(Box(key, name, self._says(part, name, node), role_of(node)), node)
            return
        known = self.boxes[at]
        self.boxes[at] = replace(known, nodes=(*known.nodes, node.name))
        self.box_of[node.name] = key

    def _says(self, part: str, name: str, node: fx.Node) -> tuple[str, ...]:
        if part == "losses":
            weight = weight_words(self.spec, name)
            return (entry_words(self.spec.losses[name]), f"weight {weight}")
        if part == "signals":
            return (entry_words(self.spec.signals[name]), self._shape(node))
        if part in ("fused", "kernel"):
            edges = cast(Mapping[str, object], node.args[0])
            return (" and ".join(edges), "in one node")
        source = node.all_input_nodes[0]
        return (self.adapters[name].describe(), f"{self._shape(source)} to {self._shape(node)}")

    def _arrows(self) -> Iterator[Arrow]:
        for node in self.graph:
            target = self.box_of.get(node.name)
            for source in node.all_input_nodes:
                while source.target is tap:
                    source = source.all_input_nodes[0]
                start = self.box_of.get(source.name)
                if start is not None and target is not None and start != target:
                    yield Arrow(start, target, role_of(source))

    def _reduced(self, arrows: list[Arrow]) -> list[Arrow]:
        """Leaves out what flows around a box of a model and through it as well: masks, mostly."""
        cluster = {b.id: b.cluster for b in self.boxes}
        inside = [a for a in arrows if cluster[a.source] is not None]
        inside = [a for a in inside if cluster[a.source] == cluster[a.target]]
        flow: nx.DiGraph[str] = nx.DiGraph((a.source, a.target) for a in inside)
        needed = set(nx.transitive_reduction(flow).edges)
        return [a for a in arrows if a not in inside or (a.source, a.target) in needed]

    def _cut(self) -> Iterator[Arrow]:
        """Adds a faded box for what pruning removed from each model."""
        for record in self.records:
            if record.name != "prune":
                continue
            left = {n.name for n in record.after}
            gone = [n for n in record.before if n.name not in left]
            for model in self.spec.networks:
                rows = parted(record.before, model)
                nodes = [n for n in gone if owner_of(n) == model and n.op != "get_attr"]
                # a name that nothing asks for, or a part of a tuple, is no work left out
                idle = (tap, apart, operator.getitem)
                nodes = [n for n in nodes if n not in rows and n.target not in idle]
                if not nodes:
                    continue
                title = path_words([str(n.meta.get("kd_path", "")) for n in nodes]) or "forward"
                role = role_of(nodes[0])
                lines = (f"{len(nodes)} operations", "cut: nothing reads them")
                names = tuple(n.name for n in nodes)
                box = Box(f"{model}_cut", title, lines, role, model, faded=True, nodes=names)
                starts = [self.box_of.get(i.name) for n in nodes for i in n.all_input_nodes]
                # a node of that name may be gone: later passes have opened or folded it
                known = [s for s in starts if s is not None]
                known = known or [b.id for b in self.boxes if b.cluster == model]
                if known:
                    self.boxes.append(box)
                    yield Arrow(known[-1], box.id, role, faded=True)
