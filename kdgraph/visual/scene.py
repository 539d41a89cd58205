"""What the interactive picture shows: every stage, before and after each pass, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx

from kdgraph.graph import DistillGraph, owner_of
from kdgraph.graph.cost import CannotRun, Cost, cost
from kdgraph.graph.fake_step import as_in_training
from kdgraph.graph.ops import tap
from kdgraph.passes.manager import Record
from kdgraph.passes.pipeline import MANDATORY
from kdgraph.runtime.report import Report
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import schedules
from kdgraph.spec.steer import Schedule
from kdgraph.visual.costs import batch_rows, cost_facts
from kdgraph.visual.edges import edges
from kdgraph.visual.folds import items
from kdgraph.visual.history import History, kernels
from kdgraph.visual.manifest import manifest
from kdgraph.visual.node_facts import node_facts, parameters
from kdgraph.visual.opened import Opener
from kdgraph.visual.picture import Box, picture
from kdgraph.visual.words import number_words

VERSION = 1
_Node = tuple[fx.Node, DistillGraph]  # and the graph that it is of
_POINTS = 101  # of a curve
_FACTS = ("batch", "models", "links", "signals")
_OF_EDGES = ("adapter", "kernel", "kernel_why", "computed")
# What a pass that was at work on a box is called beside it; else by its name.
_MARKS = {"prune": "cut", "merge": "merged", "fuse_losses": "fused", "batch_teachers": "batched"}


def scene(reports: Iterable[Report]) -> dict[str, Any]:
    """The facts of a page, from the report of each stage (of a spec without stages: the one).

    Each report is read before the next is asked for, since networks may change in between.

    Returns:
        ``legs``, one for each report. A leg has ``steps``: the graph as written, then behind each
        pass that changed it, the last as compiled; each with ``boxes`` that unfold to ``items``,
        which are numbers of ``nodes`` or hold further items. ``weights`` and ``steered`` are the
        numbers that move with training, with their values at equal distances over ``epochs``.
    """
    name, versions, legs = "", {}, []
    for report in reports:
        with as_in_training():
            facts = manifest(report, cost=False)
            name, versions = report.spec.name, facts["versions"]
            legs.append(_Leg(report, facts).data())
    return {"kdgraph_scene": VERSION, "name": name, "versions": versions, "legs": legs}


class _Leg:
    """One report; nodes that several steps share stand once in its pool."""

    def __init__(self, report: Report, facts: dict[str, Any]) -> None:
        self.report, self.spec, self.facts = report, report.spec, facts
        self.pool: list[dict[str, Any]] = []
        self.number: dict[str, int] = {}  # what is known of a node, as text, to its place there
        self.written, *optional = report.records[len(MANDATORY) - 1 :]
        self.history = History(optional)
        self.changed = [r for r in optional if str(r.before) != str(r.after)]
        opener = Opener()
        self.opened = {r.name: opener.open(r.after) for r in (self.written, *self.changed)}
        self.parameters = {graph: parameters(graph) for graph in self.opened.values()}
        self.costs: dict[DistillGraph, Cost] = {}  # of each of those, where it is known

    def data(self) -> dict[str, Any]:
        spec = self.spec
        epochs = spec.train.epochs if spec.train else None
        ends = _ends(spec, epochs)
        costs = self._costs()  # before the nodes, which tell theirs
        return {
            "name": spec.leg,
            "example": self.facts["example_sizes"],
            "epochs": epochs,
            **{key: self.facts[key] for key in _FACTS},
            "losses": self._losses(),
            "cost": costs,
            "passes": [
                {"name": r.name, "did": list(r.did), "declined": list(r.declined)}
                for r in self.report.records
            ],
            "weights": {n: _number(e.weight, ends) for n, e in spec.losses.items()},
            "steered": {n: _number(v, ends) for n, v in schedules(spec, weights=False)},
            "steps": [self._step(None), *map(self._step, self.changed)],
            "nodes": self.pool,
        }

    def _losses(self) -> dict[str, Any]:
        """As in the manifest, and how each is computed."""
        told = edges(self.report)
        return {
            name: written | {key: told[name][key] for key in _OF_EDGES}
            for name, written in self.facts["losses"].items()
        }

    def _costs(self) -> dict[str, Any]:
        rows, origin = batch_rows(self.spec)
        facts: dict[str, Any] = {"batch": rows, "batch_from": origin}
        try:
            costs = {graph: cost(graph, rows) for graph in self.opened.values()}
        except CannotRun as reason:
            return {**facts, "unknown": str(reason)}
        self.costs, known = costs, list(costs.values())
        return {**facts, **cost_facts(self.spec, known[-1], known[0])}

    def _step(self, record: Record | None) -> dict[str, Any]:
        """The graph behind a pass; of None as it is written."""
        records = self.report.records
        behind = 1 + records.index(record) if record else len(MANDATORY)
        drawn = picture(self.report, passes=behind)
        hangs = {a.target: a.source for a in drawn.arrows if a.faded}
        done = [r.name for r in self.changed if r in records[:behind]]
        nodes: dict[str, list[_Node]] = {}  # what is cut is drawn as it was
        for name in (self.written.name, *done):
            nodes |= _parts(self.opened[name])
        keys = _keys(drawn.boxes)
        boxes = [
            self._box(b, keys, [part for n in b.nodes for part in nodes.get(n, ())], done)
            | {"after": keys[hangs[b.id]] if b.id in hangs else None}
            for b in drawn.boxes
        ]
        return {
            "title": record.name if record else "as written",
            "did": list(record.did) if record else [],
            "declined": list(record.declined) if record else [],
            "clusters": [{"id": c.name, "title": c.title, "role": c.role} for c in drawn.clusters],
            "boxes": boxes,
        }

    def _box(
        self,
        box: Box,
        keys: Mapping[str, str],
        nodes: list[_Node],
        done: list[str],
    ) -> dict[str, Any]:
        graph = nodes[0][1]
        part, _, edge = owner_of(nodes[0][0]).partition(".")
        passes = [_MARKS.get(p, p) for p in self.history.passes(box.nodes, done)]
        numbers = {n: self._number_of(n, of) for n, of in nodes}
        return {
            "id": keys[box.id],
            "title": box.title,
            "lines": list(box.lines),
            "role": box.role,
            "cluster": box.cluster,
            "taps": list(box.taps),
            "faded": box.faded,
            "marks": [*passes, *(f"kernel {k}" for k in kernels(numbers, graph))],
            "edge": edge if part == "losses" else None,
            "why": self.history.why(box.nodes, done),
            "items": items(
                list(numbers), graph.root, keys[box.id], box.cluster, numbers.__getitem__
            ),
        }

    def _number_of(self, node: fx.Node, graph: DistillGraph) -> int:
        own = self.parameters[graph][node.name]
        facts = node_facts(node, graph, self.costs.get(graph), own)
        facts["history"] = self.history.of(node.meta.get("kd_within", node.name))
        number = self.number.setdefault(repr(facts), len(self.pool))
        if number == len(self.pool):
            self.pool.append(facts)
        return number


def _keys(boxes: Iterable[Box]) -> dict[str, str]:
    """An id for each box that it keeps over the passes, though they rename its nodes."""
    found: dict[str, str] = {}
    for box in boxes:
        key = f"{box.cluster}:{box.title}" if box.cluster else box.id
        again = sum(k.partition("#")[0] == key for k in found.values())
        found[box.id] = f"{key}#{again + 1}" if again else key
    return found


def _parts(graph: DistillGraph) -> dict[str, list[_Node]]:
    """The nodes to show of each that a picture knows; a tap only names another's value."""
    found: dict[str, list[_Node]] = {}
    for node in graph:
        if node.target is not tap and node.op not in ("get_attr", "output"):
            found.setdefault(node.meta.get("kd_within", node.name), []).append((node, graph))
    return found


def _ends(spec: Spec, epochs: int | None) -> dict[str, float]:
    """Where curves end, in epochs and in iterations: all that count alike at the same place.

    Where the length of training is not known, it is as far as the last point of any of them.
    """
    last: dict[str, float] = {}
    for _, value in schedules(spec):
        for unit in ("epochs", "iterations"):
            points = getattr(value, unit, None) or (0.0,)
            last[unit] = max(last.get(unit, 0.0), *points)
    found = {unit: 1.1 * point for unit, point in last.items()}
    return found if epochs is None else {**found, "epochs": float(epochs)}


def _number(value: object, ends: Mapping[str, float]) -> dict[str, Any]:
    """A number in words, and its value, its curve, or the signal that it is."""
    curve = None
    if isinstance(value, Schedule):
        shares = [i / (_POINTS - 1) for i in range(_POINTS)]
        at = [{unit: end * share for unit, end in ends.items()} for share in shares]
        curve = [value.at(epoch=x["epochs"], iteration=x["iterations"]) for x in at]
    return {
        "words": number_words(value),
        "value": value if isinstance(value, float) else curve[0] if curve else None,
        "curve": curve,
        "signal": value if isinstance(value, str) else None,
    }
