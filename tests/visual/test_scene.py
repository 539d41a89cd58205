from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.compiler import plans
from kdgraph.passes import select_kernels
from kdgraph.runtime.report import Report
from kdgraph.spec.read import load_spec
from kdgraph.visual import manifest, scene


@pytest.fixture(scope="module")
def drawn(report: Report) -> dict[str, Any]:
    return scene([report])


def numbers(items: list[Any]) -> Iterator[int]:
    for item in items:
        if isinstance(item, int):
            yield item
        else:
            yield from numbers(item["items"])


def names(leg: dict[str, Any], step: dict[str, Any], *, faded: bool = False) -> list[str]:
    boxes = [b for b in step["boxes"] if b["faded"] == faded]
    return [leg["nodes"][i]["name"] for b in boxes for i in numbers(b["items"])]


def test_every_node_of_the_manifest_is_there_once(report: Report, drawn: dict[str, Any]) -> None:
    (leg,) = drawn["legs"]
    boxes = [b for b in leg["steps"][-1]["boxes"] if not b["faded"]]
    shown = [leg["nodes"][n] for b in boxes for n in numbers(b["items"])]
    facts = {
        n["name"]: n
        for n in manifest(report)["nodes"]
        if n["op"] != "get_attr" and n["target"] not in ("tap", "apart")
    }
    assert {n["within"] for n in shown} == set(facts)
    assert len({n["name"] for n in shown}) == len(shown)
    for name, node in facts.items():
        parts = [n for n in shown if n["within"] == name]
        assert node["shape"] in [n["shape"] for n in parts]
        for key in ("flops", "bytes") if "cost" in node else ():
            told = [node["cost"][f"{key}_{way}"] for way in ("forward", "backward")]
            assert [sum(n[key][i] for n in parts) for i in (0, 1)] == told


def test_costs_are_those_of_the_manifest(report: Report, drawn: dict[str, Any]) -> None:
    cost = {k: v for k, v in manifest(report)["cost"].items() if k not in ("nodes", "seconds")}
    assert drawn["legs"][0]["cost"] == cost


def test_each_step_costs_what_its_own_nodes_cost(drawn: dict[str, Any]) -> None:
    (leg,) = drawn["legs"]
    found = []
    for step in leg["steps"]:
        boxes = [b for b in step["boxes"] if not b["faded"]]
        shown = [leg["nodes"][n] for b in boxes for n in numbers(b["items"])]
        costs = [(*n["flops"], *n["bytes"], n["kept"]) for n in shown if n["flops"]]
        found.append([sum(column) for column in zip(*costs, strict=True)])
    told = [leg["cost"]["before_passes"]["total"], leg["cost"]["total"]]
    keys = ("flops_forward", "flops_backward", "bytes_forward", "bytes_backward", "kept_bytes")
    assert [found[0], found[-1]] == [[total[key] for key in keys] for total in told]
    titles = [step["title"] for step in leg["steps"]]
    backwards = {title: row[1] for title, row in zip(titles, found, strict=True)}
    assert backwards["freeze"] > backwards["rewrite_losses"]  # what a pass saves shows behind it


class Tied(nn.Module):
    """Reads a parameter of its own in a function, and a part of it runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(6, 4))
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x @ self.table))  # type: ignore[no-any-return]


class Counting(Tied):
    """The same, for which torch.fx is not enough."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if sum(range(len(x.shape))) and x.shape[0] else x


def test_parameters_count_where_they_are_read_first() -> None:
    tied = {"taps": {"early": "block", "out": "output"}}
    spec = {
        "kdgraph": 1,
        "name": "tied",
        "batch": {"x": {"shape": ["B", 6]}},
        "models": {"teacher": tied, "student": tied},
        "losses": {"hint": {"use": "hint", "student": "student.out", "teacher": "teacher.out"}},
    }
    report = kdgraph.plan(spec, models={"teacher": Counting(), "student": Tied()})
    assert {name: c.rung for name, c in report.captures.items()} == {
        "teacher": "export",
        "student": "fx",
    }
    (leg,) = scene([report])["legs"]
    for step in leg["steps"]:
        boxes = [b for b in step["boxes"] if not b["faded"]]
        shown = [leg["nodes"][n] for b in boxes for n in numbers(b["items"])]
        for role in ("teacher", "student"):
            assert sum(n["parameters"] for n in shown if n["role"] == role) == 6 * 4 + 4 * 4 + 4
    teacher = [n for n in leg["nodes"] if n["role"] == "teacher"]
    assert {"linear", "relu"} <= {n["kind"] for n in teacher}


class Pooled(nn.Module):
    """Takes pictures of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))  # type: ignore[no-any-return]


def test_one_network_on_two_sizes() -> None:
    """Inside, too, the shapes are those of each call; whatever orders the calls of a GPU."""
    out = {"taps": {"out": "output"}}
    spec = {
        "kdgraph": 1,
        "name": "sizes",
        "batch": {"x": {"shape": ["B", 3, 8, 8]}, "wide": {"shape": ["B", 3, 16, 16]}},
        "models": {
            "teacher": {**out, "input": "wide"},
            "second": {**out, "input": "x"},
            "student": {**out, "input": "x"},
        },
        "losses": {
            name: {"use": "hint", "student": "student.out", "teacher": f"{name}.out"}
            for name in ("teacher", "second")
        },
    }
    frozen = Pooled()
    nets = {"teacher": frozen, "second": frozen, "student": Pooled()}
    (leg,) = scene([kdgraph.plan(spec, models=nets, also=["overlap"])])["legs"]
    first = leg["steps"][0]
    shapes = {
        (n["owner"], tuple(n["shape"]))
        for b in first["boxes"]
        for n in (leg["nodes"][i] for i in numbers(b["items"]))
        if n["kind"] == "ReLU"
    }
    assert shapes == {
        ("teacher", ("B", 4, 16, 16)),
        ("second", ("B", 4, 8, 8)),
        ("student", ("B", 4, 8, 8)),
    }


def test_what_a_pass_said_of_one_model_is_not_told_of_another(text: str) -> None:
    """Whose names begin alike."""
    further = text.replace(
        "  student:\n", "  teacher_b: {source: cifar/resnet8, taps: {out: output}}\n  student:\n", 1
    )
    further += "  soft: {use: soft_target, student: student.logits, teacher: teacher_b.out}\n"
    report = kdgraph.plan(further)
    (leg,) = scene([report])["legs"]
    told = {
        model: {
            line
            for n in leg["nodes"]
            if n["owner"] == model
            for h in n["history"]
            for line in h["what"].split("; ")
            if h["pass"] == "freeze"
        }
        for model in ("teacher", "teacher_b")
    }
    for model, lines in told.items():
        assert any(line.startswith(f"{model}: ") for line in lines)
        assert not [line for line in lines if ": " in line and not line.startswith(f"{model}: ")]
    fused = [n for n in leg["nodes"] if n["owner"].startswith("fused.")]
    said = [h["what"] for n in fused for h in n["history"] if h["pass"] == "fuse_losses"]
    assert said
    assert all(what.startswith("label, soft: one node") for what in said)


def test_an_edge_says_how_it_is_computed(report: Report, drawn: dict[str, Any]) -> None:
    losses = drawn["legs"][0]["losses"]
    assert losses["hint"]["adapter"] == {"mid": "conv1x1"}
    (said,) = [(*r.did, *r.declined) for r in report.records if r.name == "select_kernels"]
    (why,) = [line for line in said if line.startswith("relation: ")]
    assert losses["relation"]["kernel_why"] == why.partition(": ")[2]


def test_chosen_kernels_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of edges that one kernel computes together, too; as where there is a GPU."""
    monkeypatch.setattr(select_kernels, "interpreted", lambda: True)
    spec = """
kdgraph: 1
name: kernels
batch: {image: {shape: [B, 3, 16, 16]}, label: {shape: [B], dtype: int64, classes: 10}}
models:
  teacher: {source: cifar/resnet8, taps: {logits: output, mid: layer2}}
  student: {source: cifar/resnet8, taps: {logits: output, mid: layer2}}
losses:
  label: {use: cross_entropy, student: student.logits, target: label}
  soft: {use: soft_target, student: student.logits, teacher: teacher.logits}
  relation: {use: relation, student: student.mid, teacher: teacher.mid}
"""
    report = kdgraph.plan(spec)
    (leg,) = scene([report])["legs"]
    boxes = {b["id"]: b for b in leg["steps"][-1]["boxes"]}
    assert boxes["kernel_label_soft"]["lines"] == ["label and soft", "in one node"]
    assert "kernel softmax_rows" in boxes["kernel_label_soft"]["marks"]
    assert "kernel relation" in boxes["losses_relation"]["marks"]
    kernels = {name: edge["kernel"] for name, edge in leg["losses"].items()}
    assert kernels == {"label": "softmax_rows", "soft": "softmax_rows", "relation": "relation"}


def test_every_input_is_drawn(drawn: dict[str, Any]) -> None:
    (leg,) = drawn["legs"]
    for step in leg["steps"]:
        live, cut = names(leg, step), names(leg, step, faded=True)
        for box in step["boxes"]:
            reads = {i for n in numbers(box["items"]) for i in leg["nodes"][n]["inputs"]}
            # what a cut node read may be rewritten by now: the box hangs on a box then
            assert reads <= {*live, *cut} or box["after"] in {b["id"] for b in step["boxes"]}
            assert (box["after"] is not None) == box["faded"]


def test_steps_are_the_passes_that_changed_something(report: Report, drawn: dict[str, Any]) -> None:
    titles = [step["title"] for step in drawn["legs"][0]["steps"]]
    changed = [r.name for r in report.records[3:] if str(r.before) != str(r.after)]
    assert titles == ["as written", *changed]
    assert "prune" in changed


def test_what_is_cut_says_so_and_is_live_before(drawn: dict[str, Any]) -> None:
    (leg,) = drawn["legs"]
    before, after = leg["steps"][0], leg["steps"][-1]
    assert not any(b["faded"] for b in before["boxes"])
    (cut,) = [b for b in after["boxes"] if b["faded"]]
    assert cut["marks"] == ["cut"]
    assert "prune: cut, as nothing reads it" in cut["why"]
    assert set(names(leg, after, faded=True)) <= set(names(leg, before))


def test_numbers_that_move_have_a_curve(drawn: dict[str, Any]) -> None:
    weights = drawn["legs"][0]["weights"]
    assert weights["label"] == {"words": "0.5", "value": 0.5, "curve": None, "signal": None}
    curve = weights["hint"]["curve"]
    assert (len(curve), curve[0], curve[-1]) == (101, 1.0, 0.0)
    assert drawn["legs"][0]["steered"] == {}  # weights stand by themselves


def test_curves_run_over_the_epochs_of_training(text: str) -> None:
    spec = text.replace("use: relation,", "use: relation, tau: {linear: [4, 1], epochs: [0, 10]},")
    spec = (
        spec.replace("use: relation, tau", "use: soft_target, tau")
        .replace("student.mid, teacher: unit", "student.logits, teacher: teacher.logits")
        .replace("taps: {mid: layer2}", "taps: {mid: layer2, logits: output}")
    )
    spec += (
        "data: {use: digits, batch_size: 8}\ntrain: {epochs: 20, optimizer: {use: SGD, lr: 0.1}}\n"
    )
    (leg,) = scene([kdgraph.plan(spec)])["legs"]
    curve = leg["steered"]["losses.relation.tau"]["curve"]
    assert leg["epochs"] == 20
    assert (curve[0], curve[25], curve[50], curve[100]) == (4.0, 2.5, 1.0, 1.0)


def test_curves_stand_at_the_same_moment(text: str) -> None:
    """Half the slider is half of the longest schedule, for the short ones too."""
    short = text.replace("weight: 0.5", "weight: {linear: [1.0, 0.0], epochs: [0, 6]}")
    short = short.replace("weight: 1.0", "weight: {linear: [1.0, 0.0], iterations: [0, 100]}")
    (leg,) = scene([kdgraph.plan(short)])["legs"]
    curves = {name: weight["curve"] for name, weight in leg["weights"].items()}
    for at in (5, 50, 95):
        epoch, iteration = 66 * at / 100, 110 * at / 100
        assert curves["hint"][at] == pytest.approx(max(0, 1 - epoch / 60))
        assert curves["label"][at] == pytest.approx(max(0, 1 - epoch / 6))
        assert curves["relation"][at] == pytest.approx(max(0, 1 - iteration / 100))


def test_modules_fold_and_ids_are_unique() -> None:
    spec = """
kdgraph: 1
name: deep
batch: {image: {shape: [B, 3, 32, 32]}, label: {shape: [B], dtype: int64, classes: 10}}
models:
  teacher: {source: cifar/resnet14, taps: {late: "layer3.0.conv2", logits: output}}
  student: {source: cifar/resnet8, taps: {late: "layer3.0.conv2", logits: output}}
losses:
  soft: {use: soft_target, student: student.logits, teacher: teacher.logits}
  hint: {use: hint, student: student.late, teacher: teacher.late}
"""
    (leg,) = scene([kdgraph.plan(spec)])["legs"]
    for step in leg["steps"]:
        found = [b["id"] for b in step["boxes"]]

        def below(items: list[Any]) -> Iterator[str]:
            for item in items:
                if isinstance(item, dict):
                    yield item["id"]
                    yield from below(item["items"])

        found += [i for b in step["boxes"] for i in below(b["items"])]
        assert len(found) == len(set(found))
    kinds = {
        item["path"]: item["kind"]
        for box in leg["steps"][0]["boxes"]
        for item in box["items"]
        if isinstance(item, dict)
    }
    assert "Sequential" in kinds.values()


def test_a_module_opens_down_to_its_operations(drawn: dict[str, Any]) -> None:
    (leg,) = drawn["legs"]
    boxes = [b for b in leg["steps"][0]["boxes"] if b["title"] == "layer2"]
    (box,) = [b for b in boxes if b["cluster"] == "student"]
    inside = [leg["nodes"][n] for n in numbers(box["items"])]
    assert [n["kind"] for n in inside][:3] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert all(n["path"].startswith("layer2.0") for n in inside)
    assert len({n["within"] for n in inside}) == 1


def test_what_only_assertions_ask_is_not_shown() -> None:
    spec = """
kdgraph: 1
name: tokens
batch: {image: {shape: [B, 3, 32, 32]}}
models:
  teacher: {source: timm/vit_tiny_patch16_224, args: {img_size: 32}, taps: {late: blocks.1}}
  student: {source: timm/vit_tiny_patch16_224, args: {img_size: 32}, taps: {late: blocks.0}}
losses:
  hint: {use: hint, student: student.late, teacher: teacher.late}
"""
    (leg,) = scene([kdgraph.plan(spec)])["legs"]
    kinds = {node["kind"] for node in leg["nodes"]}
    assert "scaled_dot_product_attention" in kinds
    assert "_assert" not in kinds


def test_a_leg_for_each_stage(text: str) -> None:
    staged = (
        text
        + "stages:\n  - {name: first, losses: {hint: 1, relation: 0}}\n"
        + "  - {name: second, losses: {hint: 0}}\n"
    )
    legs = scene(plans(load_spec(staged)))["legs"]
    assert [leg["name"] for leg in legs] == ["first", "second"]
    assert set(legs[0]["weights"]) == {"label", "hint"}
    assert set(legs[1]["weights"]) == {"label", "relation"}


@pytest.mark.parametrize(
    "around", [torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)]
)
def test_is_the_same_wherever_it_is_drawn(
    report: Report, drawn: dict[str, Any], around: Callable[[], Any]
) -> None:
    with around():
        assert scene([report]) == drawn


def test_is_the_same_each_time_and_plain_json(report: Report, drawn: dict[str, Any]) -> None:
    assert json.loads(json.dumps(scene([report]))) == drawn
