"""``kdgraph explain``: what it says of a run before it starts, as text and as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from kdgraph.visual.advice import ADVICE

Run = Callable[..., Result]
DATA = "data: {use: digits, limit: 200, batch_size: 8}\n"


@pytest.fixture
def digits(spec: Path) -> Path:
    """A spec with data and a book of three views."""
    text = spec.read_text().replace("[B, 3, 16, 16]", "[B, 1, 8, 8]")
    text = text.replace("width: 0.5", "width: 0.5, in_channels: 1")
    text = text.replace("width: 0.25", "width: 0.25, in_channels: 1")
    spec.write_text(f"{text}{DATA}book: {{views: 3}}\n")
    return spec


def facts_of(run: Run, *args: object) -> Any:
    result = run("explain", *args, "--format", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_every_key_is_documented(run: Run, digits: Path) -> None:
    facts = facts_of(run, digits)
    page = (Path(__file__).parents[2] / "docs" / "explain.md").read_text()
    rows = page.partition("## As JSON")[2].splitlines()
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])}
    assert told - {"stage"} == facts.keys()
    assert set(facts["edges"]["hint"]) <= set(re.findall(r"`(\w+)`", page))
    assert set(facts["book"]) <= set(re.findall(r"`(\w+)`", page))


def test_warnings_are_listed(run: Run) -> None:
    lines = run("list", "advice").stdout.splitlines()
    assert len(lines) == len(ADVICE.names())
    assert any(re.match(r"depth +KD601  Depth: ", line) for line in lines)
    assert "effective one, over the size" in run("list", "advice", "depth").stdout
    found = {e["name"]: e for e in json.loads(run("list", "advice", "--format", "json").stdout)}
    assert found["tau"]["code"] == "KD602"


def test_every_warning_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "explain.md").read_text()
    for name, advice in ADVICE.items():
        shown = "yes" if advice.needs == "plan" else ""
        assert f"| {advice.code} | `{name}` | {shown} |".replace("|  |", "| |") in page


def test_edges_have_shapes_adapter_weight_and_a_reason(run: Run, digits: Path) -> None:
    hint = facts_of(run, digits)["edges"]["hint"]
    assert hint["reads"]["student"] == {"from": "mid.student", "shape": ["B", 16, 4, 4]}
    assert hint["adapter"] == {"mid": "conv1x1"}
    assert hint["weight"] == "linear 1 to 0"
    assert (hint["kernel"], hint["kernel_why"]) == (None, "none computes hint by itself")
    text = run("explain", digits).stdout
    assert "through conv1x1" in text
    assert "student: mid.student [B, 16, 4, 4]" in text
    assert "no kernel: none computes hint by itself" in text


def test_kernels_that_compute_an_edge(
    run: Run, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # kernels are chosen without a GPU, too
    edges = facts_of(run, digits)["edges"]
    assert {name: edge["kernel"] for name, edge in edges.items()} == {
        "label": "softmax_rows", "soft": "softmax_rows", "hint": None,
    }  # fmt: skip
    assert "both at once on CUDA" in edges["soft"]["kernel_why"]
    assert edges["soft"]["kernel_why"].endswith("(with label)")
    alone = facts_of(run, digits, "--set", "losses.label=null")["edges"]["soft"]
    assert alone["kernel"] == "softmax_rows"
    assert alone["kernel_why"] == "softmax_rows on CUDA, its reference elsewhere"


def test_a_pass_that_was_left_out_is_the_reason(run: Run, digits: Path) -> None:
    edges = facts_of(run, digits, "--without", "select_kernels")["edges"]
    assert edges["soft"]["kernel_why"] == "the pass select_kernels was left out"


def test_the_size_of_the_book(run: Run, digits: Path) -> None:
    book = facts_of(run, digits)["book"]
    each = 4 * (16 * 4 * 4 + 10)
    assert book["sample_bytes"] == each
    assert (book["rows"], book["rows_exact"], book["views"]) == (200, True, 3)
    assert book["bytes"] == 200 * 3 * each
    text = run("explain", digits).stdout
    assert f"book: {each:,} bytes a sample and view" in text
    assert "200 samples in 3 views, 638.4 kB" in text
    half = facts_of(run, digits, "--set", "book.store={teacher.logits: {dtype: float16}}")["book"]
    assert half["sample_bytes"] == 2 * 10


def test_why_there_is_no_book(run: Run, spec: Path, digits: Path) -> None:
    flip = ("--set", "data.augment.flip=true", "--set", "book=null")
    book = facts_of(run, digits, *flip)["book"]
    assert "does not say how many views" in book["skipped"]
    assert book["view_bytes"] == 200 * book["sample_bytes"]
    assert book["bytes"] is None
    text = run("explain", digits, *flip).stdout
    assert "no book: `augment` changes rows at random" in text
    assert re.search(r"a view: 1,064 bytes .*200 samples, 212.8 kB a view", text)
    digits.write_text(digits.read_text().replace(DATA, "").replace("book: {views: 3}\n", ""))
    assert "no `data` block" in facts_of(run, digits)["book"]["skipped"]


def test_classes_and_shots_say_how_many_rows_there_are(run: Run, digits: Path) -> None:
    chosen = ("--set", "data.select_classes=[1, 2]", "--set", "data.limit=90")
    book = facts_of(run, digits, *chosen)["book"]
    assert (book["rows"], book["rows_exact"]) == (90, False)
    assert "at most 90 samples" in run("explain", digits, *chosen).stdout
    book = facts_of(run, digits, "--set", "data.shots=5")["book"]
    assert (book["rows"], book["rows_exact"]) == (50, True)


def test_warnings_are_told_and_change_no_exit_code(run: Run, digits: Path) -> None:
    options = ("--set", "losses.label.smoothing=0.1")
    result = run("explain", digits, *options)
    assert result.exit_code == 0
    assert "warning[KD604]: 'label' smooths its labels by 0.1" in result.stdout
    assert result.stderr == ""
    (found,) = facts_of(run, digits, *options)["warnings"]
    assert (found["code"], found["severity"]) == ("KD604", "warning")
    checked = run("check", digits, *options)
    assert checked.exit_code == 0
    assert "warning[KD604]" in checked.stderr
    assert ": fine" in checked.stdout


def test_what_the_edges_say_at_the_start(run: Run, digits: Path) -> None:
    start = facts_of(run, digits)["start"]
    assert start["rows"] == 8
    assert sum(part["share"] for part in start["edges"].values()) == pytest.approx(1)
    label = start["edges"]["label"]
    assert label["weighted"] == pytest.approx(0.5 * label["value"])
    assert "losses at the start (8 random rows)" in run("explain", digits).stdout


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--set", "models.student.weights=student.safetensors"), "'student' starts from trained"),
        (("--set", "losses.label=null", "--set", "losses.soft=null"), "there is one edge only"),
    ],
)
def test_why_the_start_is_not_known(
    run: Run, digits: Path, options: tuple[str, ...], reason: str
) -> None:
    assert reason in facts_of(run, digits, *options)["start"]["skipped"]
    assert f"losses at the start not known: {reason}" in " ".join(
        run("explain", digits, *options).stdout.replace("model ", "").split()
    )


def test_a_step_that_is_too_large_is_left_out(
    run: Run, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdgraph.train.first_step.FLOPS", 1e6)
    start = facts_of(run, digits)["start"]
    assert re.search(r"a forward of 2 rows takes .* GFLOP, more than 0.001", start["skipped"])
    monkeypatch.setattr("kdgraph.train.first_step.PARAMETERS", 1000)
    assert "M parameters, more than" in facts_of(run, digits)["start"]["skipped"]


STAGES = "stages: [{name: first, epochs: 1, losses: {hint: 0}}, {name: second, epochs: 1}]\n"


def test_a_later_stage_does_not_start_from_random_weights(run: Run, digits: Path) -> None:
    digits.write_text(digits.read_text() + STAGES)
    assert set(facts_of(run, digits)["start"]["edges"]) == {"label", "soft"}
    start = facts_of(run, digits, "--stage", "second")["start"]
    assert start == {"skipped": "stage 'second' starts from what stages before it have trained"}
