"""DistillGraph: what it holds, what it refuses, how it prints, and its graph-theory view."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

import kdgraph
from kdgraph.errors import PassError
from kdgraph.graph import DistillGraph, owner_of, role_of
from kdgraph.graph.verify import verify
from kdgraph.graph.view import cycle, dead, lifetimes, view
from kdgraph.passes.base import Context, Pass
from kdgraph.passes.manager import run_passes

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "small",
    "batch": {"image": {"shape": ["B", 3, 16, 16]}},
    "models": {
        "teacher": {"source": "cifar/resnet14", "taps": {"mid": "layer2", "logits": "output"}},
        "student": {"source": "cifar/resnet8", "taps": {"mid": "layer1", "logits": "output"}},
    },
    "links": {"mid": {"student": "student.mid", "teacher": "teacher.mid"}},
    "losses": {
        "hint": {"use": "hint", "link": "mid", "weight": {"linear": [1, 0], "epochs": [0, 9]}}
    },
}


@pytest.fixture
def report() -> Any:
    return kdgraph.compile(SPEC).report


def test_it_runs_at_every_stage(report: Any) -> None:
    image = torch.randn(2, 3, 16, 16)
    stages = [report.records[0].before, *(r.after for r in report.records)]
    for graph in stages:
        for module in graph.root.get_submodule("models").children():
            module.eval()
    results = [graph.module()(image=image) for graph in stages]
    taps = set(results[0])
    assert taps == {"teacher.mid", "teacher.logits", "student.mid", "student.logits"}
    for name in taps:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=0, atol=0)
    last = results[-1]
    assert last["loss"] == last["losses"]["hint"]


def test_every_node_says_what_it_is_and_where_it_was_written(report: Any) -> None:
    for node in report.graph:
        assert role_of(node) in (
            "batch",
            "teacher",
            "student",
            "adapter",
            "signal",
            "steer",
            "loss",
            "total",
        )
        assert owner_of(node)
        assert "kd_span" in node.meta
    assert verify(report.graph) == []


def test_it_prints_one_line_a_node(report: Any) -> None:
    lines = str(report.graph).splitlines()
    assert len(lines) == len(list(report.graph))
    assert any("= adapters.mid(%" in line for line in lines)
    assert any("= tap(%" in line and "'mid.student'" in line for line in lines)
    assert lines[-1].startswith("return loss=%total")


def test_a_copy_is_independent_but_shares_parameters(report: Any) -> None:
    graph = report.graph
    twin = graph.copy()
    assert str(twin) == str(graph)
    twin.graph.erase_node(twin.output)
    assert len(list(twin)) == len(list(graph)) - 1
    assert twin.root is graph.root


def test_the_view_knows_data_flow(report: Any) -> None:
    flow = view(report.graph)
    loss = next(n for n, d in flow.nodes(data=True) if d["role"] == "total")
    import networkx as nx

    roles = {flow.nodes[n]["role"] for n in nx.ancestors(flow, loss)}
    assert {"batch", "teacher", "student", "adapter", "loss", "steer"} <= roles
    spans = lifetimes(report.graph)
    assert all(first <= last for first, last in spans.values())
    before_prune = next(r for r in report.records if r.name == "prune").before
    assert "fc" in " ".join(dead(before_prune))
    # markers of the student's logits are returned for metrics, so only placeholders may be dead
    assert all(n == "image" for n in dead(report.graph))


def test_a_cycle_is_shown() -> None:
    assert cycle({"a": ["b"], "b": ["c"], "c": ["a"]}) is not None
    found = cycle({"a": ["b"], "b": ["a"], "d": ["a"]})
    assert found is not None
    assert found[0] == found[-1]
    assert set(found) == {"a", "b"}
    assert cycle({"a": ["x"], "b": ["a", "x"]}) is None


def _broken(graph: DistillGraph, context: Context) -> DistillGraph:
    node = next(n for n in graph if n.op == "call_module")
    node.target = "models.student.nowhere"
    return graph


def _roleless(graph: DistillGraph, context: Context) -> DistillGraph:
    with graph.graph.inserting_before(graph.output):
        graph.graph.call_function(torch.relu, (next(iter(graph)),))
    return graph


@pytest.mark.parametrize(
    ("rewrite", "words"),
    [(_broken, "models.student.nowhere, which does not exist"), (_roleless, "has no role")],
)
def test_a_pass_that_breaks_the_graph_is_named(report: Any, rewrite: Any, words: str) -> None:
    steps = [Pass("fine", lambda g, c: g), Pass("broken", rewrite)]
    with pytest.raises(PassError, match=r"pass .broken.*passes before it: fine") as caught:
        run_passes(report.graph, steps, Context(report.spec))
    assert words in str(caught.value)
    assert verify(report.graph) == []  # the pass worked on a copy


def test_an_unknown_pass_cannot_be_left_out() -> None:
    with pytest.raises(kdgraph.KDGraphError, match="did you mean 'prune'"):
        kdgraph.compile(SPEC, without=["prun"])
    with pytest.raises(kdgraph.KDGraphError, match="no optional pass is called 'resolve_taps'"):
        kdgraph.compile(SPEC, without=["resolve_taps"])


def test_fx_graphs_stay_plain(report: Any) -> None:
    assert isinstance(report.graph.graph, fx.Graph)
    code = report.graph.module().code
    assert "def forward(self, image)" in code
