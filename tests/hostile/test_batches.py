"""Batches that no spec says, handed to the compiled step: one error, which names the entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import kdgraph
from kdgraph.errors import InputError
from tests.hostile.press import FINE

Batch = dict[str, Any]


@pytest.fixture(scope="module")
def step() -> kdgraph.DistillModule:
    torch.manual_seed(0)
    return kdgraph.compile(FINE).eval()


def batch(rows: int = 4) -> dict[str, Tensor]:
    return {"image": torch.randn(rows, 1, 8, 8), "label": torch.arange(rows) % 10}


def changed(**to: Callable[[Tensor], Any]) -> Callable[[Batch], Batch]:
    return lambda values: {n: to[n](v) if n in to else v for n, v in values.items()}


IMAGE, LABEL = "<text>:4:3", "<text>:5:3"
CASES: dict[str, tuple[Callable[[Batch], Batch], str, str, str]] = {
    "nothing at all": (lambda b: {}, "KD701", "no 'image'; given: nothing", IMAGE),
    "an entry missing": (lambda b: {"image": b["image"]}, "KD701", "no 'label'", LABEL),
    "an entry too many": (lambda b: {**b, "mask": b["label"]}, "KD702", "'mask'", "<text>:3:1"),
    "a name like another": (
        lambda b: {"im\u0430ge": b["image"], "label": b["label"]},
        "KD701",
        "no 'image'",
        IMAGE,
    ),
    "no tensor": (changed(label=list), "KD703", "'label' must be a tensor, not list", LABEL),
    "nothing for a tensor": (changed(label=lambda _: None), "KD703", "not NoneType", LABEL),
    "an array": (changed(image=lambda t: t.numpy()), "KD703", "not ndarray", IMAGE),
    "too few dimensions": (changed(image=lambda t: t[0]), "KD704", r"not \[1, 8, 8\]", IMAGE),
    "a number": (changed(label=lambda t: t[0]), "KD704", r"shape \[B\], not \[\]", LABEL),
    "other sizes": (changed(image=lambda t: t[..., :7]), "KD704", "'image'", IMAGE),
    "fewer labels": (changed(label=lambda t: t[:3]), "KD704", "B = 3, but 'image' has 4", LABEL),
    "bytes for floats": (changed(image=lambda t: t.byte()), "KD703", "float32, not uint8", IMAGE),
    "half precision": (changed(image=lambda t: t.half()), "KD703", "float16 and the mo", IMAGE),
    "double precision": (changed(image=lambda t: t.double()), "KD703", "are float32: ", IMAGE),
    "complex numbers": (
        changed(image=lambda t: t.to(torch.complex64)),
        "KD703",
        "not complex64",
        IMAGE,
    ),
    "floats for labels": (changed(label=lambda t: t.float()), "KD703", "int64, not float32", LABEL),
    "yes and no for labels": (changed(label=lambda t: t > 1), "KD703", "int64, not bool", LABEL),
    "sparse images": (changed(image=lambda t: t.to_sparse()), "KD703", "sparse_coo one", IMAGE),
    "nested images": (
        changed(image=lambda t: torch.nested.as_nested_tensor(list(t), layout=torch.jagged)),
        "KD703",
        "nested one",
        IMAGE,
    ),
    "images elsewhere": (
        changed(image=lambda t: t.to("meta")),
        "KD709",
        "'image' is on 'meta', the models are on 'cpu'",
        IMAGE,
    ),
    "labels elsewhere": (changed(label=lambda t: t.to("meta")), "KD709", "'label'", LABEL),
    "labels too large": (changed(label=lambda t: t + 7), "KD705", "10, outside 0..9", LABEL),
    "labels too small": (changed(label=lambda t: t - 1), "KD705", "-1, outside 0..9", LABEL),
    "the smallest label": (
        changed(label=lambda t: t.fill_(-(2**63))),
        "KD705",
        "-9223372036854775808, outside 0..9",
        LABEL,
    ),
    "no rows": (
        lambda b: {n: t[:0] for n, t in b.items()},
        "KD704",
        r"'image' is empty: \[0, 1, 8, 8\]",
        IMAGE,
    ),
    "images of nan": (
        changed(image=lambda t: t.index_fill(0, torch.tensor([2]), float("nan"))),
        "KD706",
        "'image' holds nan",
        IMAGE,
    ),
    "infinite images": (
        changed(image=lambda t: t.index_fill(0, torch.tensor([2]), float("inf"))),
        "KD706",
        "tap 'teacher.logits' holds nan .read by 'soft'",
        "<text>:10:",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_entry_and_its_line_are_named(step: kdgraph.DistillModule, name: str) -> None:
    change, code, said, place = CASES[name]
    before = {n: t.clone() for n, t in step.state_dict().items()}
    with pytest.raises(InputError, match=said) as caught:
        step(**change(batch()))
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert str(found.span).startswith(place)
    for key, value in step.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    "form",
    [
        lambda t: t.to(memory_format=torch.channels_last),
        lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
        lambda t: torch.cat([t, t], 2)[:, :, :8],
        lambda t: t.clone().requires_grad_(),
    ],
    ids=["channels last", "transposed", "a slice", "with a gradient"],
)
def test_any_strides_give_the_same(
    step: kdgraph.DistillModule, form: Callable[[Tensor], Tensor]
) -> None:
    values = batch()
    out = step(**values | {"image": form(values["image"])})
    torch.testing.assert_close(out.loss, step(**values).loss)


def test_one_row_for_all(step: kdgraph.DistillModule) -> None:
    """An expanded tensor, whose rows are one memory."""
    image = torch.randn(1, 1, 8, 8)
    label = torch.zeros(1, dtype=torch.int64)
    out = step(image=image.expand(5, 1, 8, 8), label=label.expand(5))
    torch.testing.assert_close(out.loss, step(image=image, label=label).loss)
