"""Teachers of another vocabulary: padded heads, other tokenizers, and what the check says."""

from __future__ import annotations

from typing import Any

import torch

import kdgraph
from tests.llm.tiny import VOCABULARY, batch, logits_only, pair

LARGER = VOCABULARY + 9


def spec() -> dict[str, Any]:
    found = logits_only(pair("llama"))
    teacher = found["models"]["teacher"]
    teacher["args"] = {**teacher["args"], "vocab_size": LARGER}
    return found


def test_the_check_names_both_ways_out() -> None:
    (found,) = kdgraph.check(spec())
    assert "number of classes" in found.message
    assert "select_classes" in str(found.help)
    assert "uld" in str(found.help)


def test_a_padded_head_is_cut_to_the_tokens_that_there_are() -> None:
    written = spec()
    cut = {"use": "select_classes", "of": "teacher.logits", "classes": VOCABULARY}
    written["signals"] = {"tokens_of_teacher": cut}
    written["losses"]["soft"]["teacher"] = "tokens_of_teacher"
    step = kdgraph.compile(written)
    data = batch([8, 5])
    with torch.no_grad():
        out = step(**data)
        teacher = step.report.captures["teacher"].root(data["tokens"]).logits[..., :VOCABULARY]
        student = step.student(data["tokens"]).logits
    p, q = (x[data["keep"]] / 2 for x in (teacher, student))
    kl = (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(out.losses["soft"], 4 * kl, rtol=1e-4, atol=1e-6)


def test_other_tokenizers_are_compared_by_sorted_probabilities() -> None:
    written = spec()
    written["losses"]["soft"] = {
        "use": "uld", "student": "student.logits", "teacher": "teacher.logits", "mask": "keep"
    }  # fmt: skip
    out = kdgraph.compile(written)(**batch([8, 5]))
    out.losses["soft"].backward()
    assert out.losses["soft"] > 0
