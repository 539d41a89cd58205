"""The ``book`` block: what can be kept, what is said where it cannot, the spec that is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from kdgraph.spec.book import StoreSpec
from kdgraph.spec.booked import book_entries, teachers_side, with_book
from kdgraph.spec.frontier import stored, unfit, why_nothing
from kdgraph.spec.read import diagnose, load_spec

TEXT = """
kdgraph: 1
name: booked
batch:
  large: {shape: [B, 3, 64, 64]}
  image: {shape: [B, 3, 32, 32]}
  label: {shape: [B], dtype: int64, classes: 10}
models:
  one: {source: cifar/resnet14, input: image, taps: {mid: layer3, logits: output}}
  two: {source: cifar/resnet14, input: large, taps: {logits: output}}
  noisy: {source: cifar/resnet14, input: image, dropout: true, taps: {logits: output}}
  student: {source: cifar/resnet8, input: image, taps: {mid: layer3, logits: output}}
links:
  mid: {student: student.mid, teacher: one.mid}
signals:
  both: {use: ensemble, of: [one.logits, two.logits]}
  sure: {use: certainty, of: both}
  weigh: {use: batch_weight, of: sure}
  fade: {use: affine, of: sure, scale: {linear: [1, 0], epochs: [0, 5]}}
  hard: {use: correct, of: student.logits, label: label}
losses:
  label: {use: cross_entropy, student: student.logits, target: label, weight: fade}
  soft: {use: soft_target, student: student.logits, teacher: both, weight: weigh}
  hint: {use: hint, link: mid}
train: {epochs: 1, optimizer: {use: SGD, lr: 0.1}, teacher: {epochs: 1, models: [one, two]}}
"""


@dataclass(frozen=True)
class Column:
    """What a book holds, as far as a spec goes."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    k: int | None = None


ALL = [Column("sure", ()), Column("both", (10,)), Column("one.mid", (64, 8, 8))]


def test_the_frontier_is_what_others_read_of_what_stands_still() -> None:
    spec = load_spec(TEXT)
    assert stored(spec) == dict.fromkeys(["both", "one.mid", "sure"], StoreSpec())
    assert unfit(spec, "both") is None
    reasons = {
        "weigh": "rows of the batch",
        "fade": "'fade.scale'",
        "hard": "'student', which changes",
        "mid.student": "adapter of link 'mid'",
        "noisy.logits": "`dropout: true`",
    }
    for ref, reason in reasons.items():
        assert reason in str(unfit(spec, ref)), ref


def test_it_is_told_why_there_is_nothing_to_keep() -> None:
    losses = "losses={soft: {use: soft_target, student: student.logits, teacher: %s}}"
    for teacher, why in (
        ("one.logits", "'one.logits' depends on 'one', which changes in training"),
        ("noisy.logits", "'noisy.logits' depends on 'noisy', which draws random numbers"),
    ):
        stages = "stages=[{name: a, epochs: 1}, {name: b, epochs: 1, trainable: {one: true}}]"
        spec = load_spec(TEXT, set=[losses % teacher, "signals=null", "links=null", stages,
                                    "train.teacher=null"])  # fmt: skip
        assert stored(spec) == {}
        assert str(why_nothing(spec)).startswith(why)
    label = "losses={label: {use: cross_entropy, student: student.logits, target: label}}"
    assert why_nothing(load_spec(TEXT, set=[label, "signals=null", "links=null"])) is None


def test_what_is_written_is_kept_and_nothing_else() -> None:
    kept = "book={store: {one.logits: {dtype: float16}, both: {top_k: 3}}, views: 4, seed: 1}"
    spec = load_spec(TEXT, set=kept)
    assert stored(spec) == {
        "one.logits": StoreSpec(dtype="float16"),
        "both": StoreSpec(top_k=3),
    }
    assert spec.book is not None
    assert (spec.book.views, spec.book.seed, spec.book.linear_mix) == (4, 1, False)


@pytest.mark.parametrize(
    ("block", "code", "words"),
    [
        ("{store: {one.logit: {}}}", "KD202", "did you mean 'logits'?"),
        ("{store: {bothe: {}}}", "KD202", "did you mean 'both'?"),
        ("{store: {mid.teacher: {}}}", "KD217", "write `one.mid`"),
        ("{store: {label: {}}}", "KD217", "no model"),
        ("{store: {weigh: {}}}", "KD217", "keep what it is made of"),
        ("{store: {student.logits: {}}}", "KD217", "changes in training"),
        ("{store: {both: {dtype: float8}}}", "KD114", "float32"),
        ("{store: {both: {top_k: 3, dtype: int8}}}", "KD115", "not as int8"),
        ("{store: {one.mid: {top_k: 3}}}", "KD217", "'hint' (hint) takes the values"),
        ("{views: 0}", "KD113", "at least 1"),
        ("{view: 3}", "KD110", "views"),
    ],
)
def test_mistakes_are_told_with_their_place(block: str, code: str, words: str) -> None:
    text = TEXT + f"book: {block}\n"
    _, found = diagnose(text)
    errors = [d for d in found if d.severity == "error"]
    assert len(errors) == 1
    assert words in str(errors[0])
    assert errors[0].span is not None
    assert errors[0].span.excerpt.startswith("book:")
    assert errors[0].code == code


def test_distances_need_all_of_the_logits(errors: Callable[..., list[str]]) -> None:
    kept = "book: {store: {both: {top_k: 3}}}\n"
    load_spec(TEXT + kept)
    (said,) = errors(TEXT.replace("use: soft_target", "use: logit_mse") + kept)
    assert said.startswith("KD217")
    assert "'soft' (logit_mse) takes the values of 'both'" in said


def test_the_spec_with_a_book_has_no_teachers() -> None:
    spec = load_spec(TEXT)
    found = with_book(spec, ALL)
    assert list(found.models) == ["student"]
    assert list(found.signals) == ["weigh", "fade"]
    assert list(found.batch) == ["image", "label", "sure", "both", "one_mid"]
    assert found.batch["one_mid"].shape == ("B", 64, 8, 8)
    assert found.batch["sure"].shape == ("B",)
    assert found.links["mid"].teacher == "one_mid"
    assert found.losses["soft"].model_dump()["teacher"] == "both"
    assert found.inputs("student") == "image"
    assert found.train is not None
    assert found.train.teacher is None
    assert found.span("losses", "soft") == spec.span("losses", "soft")
    assert found.span("batch", "one_mid") == spec.key_span("models", "one", "taps", "mid")
    assert list(spec.models) == ["one", "two", "noisy", "student"]  # as it was


def test_teachers_that_are_read_elsewhere_stay() -> None:
    spec = load_spec(TEXT, set="book={store: {one.logits: {}}}")
    found = with_book(spec, [Column("one.logits", (10,))])
    assert {"one", "two", "student"} <= set(found.models)  # the link still reads one.mid
    assert found.signals["both"].model_dump()["of"] == ("one_logits", "two.logits")
    assert found.train is not None
    assert found.train.teacher == spec.train.teacher  # type: ignore[union-attr]
    assert found.inputs("two") == "large"


def test_top_k_is_made_logits_again() -> None:
    columns = [Column("both", (10,), k=3), *ALL[:1], *ALL[2:]]
    spec = load_spec(TEXT)
    assert book_entries(spec, columns[:1]) == {
        "both.values": "both_values", "both.ids": "both_ids", "both.tail": "both_tail"
    }  # fmt: skip
    found = with_book(spec, columns)
    assert found.signals["both"].use == "top_k_logits"
    assert found.signals["both"].model_dump()["classes"] == 10
    assert found.batch["both_ids"].dtype == "int64"
    assert found.batch["both_ids"].shape == ("B", 3)
    assert found.batch["both_tail"].shape == ("B",)
    assert found.losses["soft"].model_dump()["teacher"] == "both"

    tap = load_spec(TEXT.replace("teacher: both", "teacher: one.logits"))
    found = with_book(tap, [Column("one.logits", (10,), k=3)])
    assert found.losses["soft"].model_dump()["teacher"] == "one_logits"
    assert found.signals["one_logits"].model_dump()["values"] == "one_logits_values"


def test_names_that_are_taken_get_a_mark() -> None:
    text = TEXT.replace("  sure:", "  one_mid: {use: detach, of: one.mid}\n  sure:")
    entries = book_entries(load_spec(text), ALL)
    assert entries == {"sure": "sure", "both": "both", "one.mid": "one_mid_"}


def test_the_teachers_side_reads_what_it_needs() -> None:
    side = teachers_side(load_spec(TEXT), ["sure", "one.mid"])
    assert list(side.models) == ["one", "two"]
    assert list(side.signals) == ["both", "sure"]
    assert list(side.batch) == ["large", "image"]
    assert teachers_side(load_spec(TEXT), ["one.mid"]).inputs("one") == "image"


def test_stages_lose_models_that_are_gone() -> None:
    stages = """
stages:
  - {name: first, epochs: 1, trainable: {one: false, student: true}, losses: {soft: weigh}}
"""
    found = with_book(load_spec(TEXT + stages), ALL)
    assert found.stages[0].trainable == {"student": True}
    load = "\nstages:\n  - {name: first, before: [{use: load, module: student, of: one}]}\n"
    found = with_book(load_spec(TEXT + load), ALL)
    assert list(found.models) == ["one", "student"]  # which is looked at, and not run
    trained = "\nstages:\n  - {name: first, epochs: 1, trainable: {one: true}}\n"
    spec = load_spec(TEXT + trained)
    assert list(stored(spec)) == ["two.logits"]  # the rest depends on `one`, which now learns


def test_circles_and_long_chains_end(errors: Callable[..., list[str]]) -> None:
    circle = TEXT.replace("of: [one.logits, two.logits]", "of: [one.logits, sure]")
    assert any(line.startswith("KD204") for line in errors(circle + "book: {store: {sure: {}}}"))
    chain = "".join(f"  s{n + 1}: {{use: detach, of: s{n}}}\n" for n in range(2000))
    text = TEXT.replace("  both:", f"  s0: {{use: detach, of: one.logits}}\n{chain}  both:")
    spec = load_spec(text.replace("teacher: both", "teacher: s2000"))
    assert "s2000" in stored(spec)
