from __future__ import annotations

import networkx as nx
from torch import Tensor, nn

import kdgraph
from kdgraph.book import Column
from kdgraph.runtime.report import Report
from kdgraph.spec.booked import with_book
from kdgraph.visual import picture, scene
from kdgraph.visual.words import path_words


def test_folds_a_model_to_its_taps(report: Report) -> None:
    drawn = picture(report)
    student = [b for b in drawn.boxes if b.cluster == "student"]
    assert [(b.title, b.taps) for b in student] == [
        ("conv1 ... layer1", ()),
        ("layer2", ("mid",)),
        ("layer3 ... fc", ("logits",)),
    ]
    assert student[1].lines == ("Sequential", "[B, 8, 8, 8]")


def test_what_is_cut_is_faded(report: Report) -> None:
    drawn = picture(report)
    (cut,) = [b for b in drawn.boxes if b.faded]
    assert cut.cluster == "teacher"
    assert cut.title == "layer3 ... fc"
    assert [a.source for a in drawn.arrows if a.target == cut.id and a.faded] != []


class Recurrent(nn.Module):
    """Of the pair that the layer gives, one part goes on; behind the tap, some arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0] * 2 + 1  # type: ignore[no-any-return]


def test_a_part_of_a_tuple_is_not_work_that_is_cut() -> None:
    """And work of the model itself, in no module of its own, has a name."""
    spec = {
        "kdgraph": 1,
        "name": "recurrent",
        "batch": {"x": {"shape": ["B", "L", 4]}},
        "models": {"teacher": {"taps": {"mid": "rnn[0]"}}, "student": {"taps": {"out": "output"}}},
        "losses": {"hint": {"use": "hint", "student": "student.out", "teacher": "teacher.mid"}},
    }
    step = kdgraph.compile(spec, models={"teacher": Recurrent(), "student": Recurrent()})
    cut = [(b.title, b.lines[0]) for b in picture(step.report).boxes if b.faded]
    assert cut == [("forward", "2 operations")]


def test_a_tap_that_nothing_reads_is_not_work_that_is_cut(text: str) -> None:
    idle = text.replace("taps: {mid: layer2}", "taps: {mid: layer2, early: layer1}")
    report = kdgraph.plan(idle)
    cut = [(b.title, b.lines[0]) for b in picture(report).boxes if b.faded]
    assert cut == [("layer3 ... fc", "4 operations")]
    (leg,) = scene([report])["legs"]
    assert [b["title"] for b in leg["steps"][-1]["boxes"] if b["faded"]] == ["layer3 ... fc"]


def test_a_tap_alone_is_no_box() -> None:
    spec = {
        "kdgraph": 1,
        "name": "whole",
        "batch": {"x": {"shape": ["B", 3, 16, 16]}},
        "models": {
            "teacher": {"source": "cifar/resnet8", "taps": {"early": "layer1", "out": "output"}},
            "student": {"source": "cifar/resnet8", "taps": {"out": "output"}},
        },
        "losses": {"hint": {"use": "hint", "student": "student.out", "teacher": "teacher.out"}},
    }
    report = kdgraph.plan(spec)
    assert not [b for b in picture(report).boxes if b.faded]
    assert scene([report])["legs"]


def test_parts_say_what_they_are(report: Report) -> None:
    boxes = {b.id: b for b in picture(report).boxes}
    assert boxes["adapters_mid"].lines == ("conv1x1", "[B, 8, 8, 8] to [B, 16, 8, 8]")
    assert boxes["losses_hint"].lines == ("hint", "weight linear 1 to 0")
    assert boxes["signals_unit"].role == "signal"
    assert boxes["total"].lines == ("0.5 label + (linear 1 to 0) hint + relation",)
    assert boxes["image"].lines == ("[B, 3, 16, 16]",)


def test_what_a_book_gives_says_so(text: str) -> None:
    columns = [Column("teacher.mid", (16, 8, 8)), Column("unit", (16, 8, 8))]
    drawn = picture(kdgraph.plan(with_book(kdgraph.load_spec(text), columns)))
    batch = {b.title: b.lines[1:] for b in drawn.boxes if b.role == "batch"}
    assert batch == {
        "image": (), "label": (), "teacher_mid": ("from the book",), "unit": ("from the book",),
    }  # fmt: skip


def test_depth_opens_modules(report: Report) -> None:
    titles = [b.title for b in picture(report, depth=1).boxes if b.cluster == "student"]
    assert titles == [
        "conv1",
        "bn1",
        "relu",
        "layer1",
        "layer2",
        "layer3",
        "avgpool",
        "flatten",
        "fc",
    ]


def test_every_fold_is_acyclic_and_reaches_the_total(report: Report) -> None:
    for depth in range(4):
        drawn = picture(report, depth=depth)
        flow = nx.DiGraph((a.source, a.target) for a in drawn.arrows if not a.faded)
        assert nx.is_directed_acyclic_graph(flow)
        assert nx.ancestors(flow, "total") == set(flow) - {"total"}
        assert set(flow) <= {b.id for b in drawn.boxes}


def test_a_signal_as_weight_is_an_arrow() -> None:
    text = """
kdgraph: 1
name: weighted
batch:
  image: {shape: [B, 3, 16, 16]}
  label: {shape: [B], dtype: int64, classes: 10}
  trust: {shape: [B]}
models:
  student: {source: cifar/resnet8, args: {width: 0.25}, taps: {logits: output}}
signals:
  sure: {use: detach, of: trust}
losses:
  label: {use: cross_entropy, student: student.logits, target: label, weight: sure}
"""
    drawn = picture(kdgraph.plan(text))
    assert ("signals_sure", "losses_label") in {(a.source, a.target) for a in drawn.arrows}
    assert {b.id for b in drawn.boxes if b.id.startswith("losses")} == {"losses_label"}


def test_path_words() -> None:
    assert path_words(["fc"]) == "fc"
    assert path_words(["avgpool", "flatten", "fc"]) == "avgpool, flatten, fc"
    assert path_words([f"bert.layer.{i}.out" for i in range(3, 6)]) == "bert.layer.3 ... 5"
    assert path_words(["bert.layer.3.attention.q", "bert.layer.3", "bert.layer.3.output"]) == (
        "bert.layer.3"
    )
    assert path_words(["patch_embed", "norm_pre", "blocks.0", "blocks.6.mlp"]) == (
        "patch_embed ... blocks.6"
    )
    assert path_words(["", ""]) == ""
