from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import kdgraph
from kdgraph.losses.ctc import CTC
from kdgraph.spec.shapes import ShapeMismatch

LOGITS = True
MASKED = ("student",)

LOSS = CTC(student="s.logits", target="t", input_lengths="frames", target_lengths="length")

# Three frames, three classes (blank first), two students' passes, from the published formula
# by summing over all 27 paths in float64.
ONE = [(0.1, 0.5, -0.2), (0.3, 0.2, 0.1), (0.6, -0.1, 0.0)]
TWO = [(0.0, 0.4, -0.1), (0.2, 0.4, 0.0), (0.5, 0.0, 0.1)]


def further(student: Tensor) -> dict[str, Tensor]:
    B, classes = student.shape[0], student.shape[-1]
    frames = student.shape[1] if student.dim() > 1 else 1
    return {
        "target": (torch.arange(2 * B).reshape(B, 2) % max(classes - 1, 1) + 1) % classes,
        "input_lengths": torch.full((B,), frames),
        "target_lengths": torch.arange(B) % 2 + 1 if frames > 1 else torch.ones(B).long(),
    }


def brute_force(logits: Tensor, target: list[int], blank: int = 0) -> float:
    """-log of the sum over every path, one by one."""
    prob = logits.double().softmax(1)
    F_, V = logits.shape
    total = 0.0
    for path in itertools.product(range(V), repeat=F_):
        read = [k for k, _ in itertools.groupby(path) if k != blank]
        if read == target:
            total += math.prod(float(prob[f, k]) for f, k in enumerate(path))
    return -math.log(total) if total else math.inf


def inputs(target: Any, frames: list[int], lengths: list[int]) -> dict[str, Tensor]:
    return {
        "target": torch.tensor(target),
        "input_lengths": torch.tensor(frames),
        "target_lengths": torch.tensor(lengths),
    }


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_known_values(dtype: torch.dtype, rel: float, value_of: Any) -> None:
    rest = inputs([[1]], [3], [1])
    one, two = (torch.tensor([x], dtype=dtype) for x in (ONE, TWO))
    assert float(value_of(LOSS, student=one, **rest)) == pytest.approx(1.2113568853451507, rel=rel)
    assert float(value_of(LOSS, student=two, **rest)) == pytest.approx(1.2133126458951656, rel=rel)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_mean_is_over_utterances_not_over_labels(
    dtype: torch.dtype, rel: float, value_of: Any
) -> None:
    """Utterance B: two frames, two labels. The passes are those of A, exchanged."""
    rest = inputs([[1, 0], [2, 1]], [3, 2], [1, 2])
    first, second = (torch.tensor([a, b], dtype=dtype) for a, b in ((ONE, TWO), (TWO, ONE)))
    value = value_of(LOSS, student=first, **rest)
    assert float(value) == pytest.approx(1.7230257683475519, rel=rel)
    value = value_of(LOSS, student=second, **rest)
    assert float(value) == pytest.approx(1.8942777688746008, rel=rel)
    rows = LOSS.rows(student=first, **rest)
    assert float(rows[1]) == pytest.approx(2.2346946513499531, rel=rel)
    theirs = F.ctc_loss(
        first.log_softmax(2).transpose(0, 1), rest["target"], rest["input_lengths"],
        rest["target_lengths"], reduction="mean",
    )  # fmt: skip
    assert float(theirs) == pytest.approx(1.1643521055100636, rel=rel)


@pytest.mark.parametrize(
    ("frames", "classes", "blank", "target"),
    [
        (4, 3, 0, [1, 1]), (4, 3, 2, [0, 1]), (5, 4, 0, [3, 1, 3]), (3, 5, 4, [2]), (4, 3, 0, []),
        (3, 2, 0, [1, 1]), (2, 3, 0, [1, 1]),
    ],
)  # fmt: skip
def test_every_path_by_brute_force(
    frames: int, classes: int, blank: int, target: list[int], value_of: Any
) -> None:
    logits = torch.randn(1, frames + 2, classes, dtype=torch.float64) * 2
    rest = inputs([[*target, 0, 0]], [frames], [len(target)])
    value = value_of(LOSS.model_copy(update={"blank": blank}), student=logits, **rest)
    expected = brute_force(logits[0, :frames], target, blank)
    assert float(value) == pytest.approx(0 if expected == math.inf else expected, rel=1e-10)


def test_an_impossible_utterance_counts_nothing_but_stays(value_of: Any) -> None:
    logits = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    # the second has fewer frames than labels, the third no frame at all
    rest = inputs([[1, 2, 1]] * 3, [4, 2, 0], [3, 3, 1])
    value = value_of(LOSS, student=logits, **rest)
    alone = value_of(LOSS, student=logits[:1], **{n: x[:1] for n, x in rest.items()})
    torch.testing.assert_close(value, alone / 3)
    value.backward()
    assert logits.grad is not None
    assert logits.grad[0].any()
    assert not logits.grad[1:].any()


def test_padding_moves_nothing_and_may_hold_nan(value_of: Any) -> None:
    logits = torch.randn(2, 6, 4, dtype=torch.float64)
    rest = inputs([[1, 2, 3], [3, 1, 0]], [6, 4], [3, 2])

    def run(student: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        leaf = student.clone().requires_grad_()
        value = value_of(LOSS, student=leaf, **{**rest, "target": target})
        value.backward()
        assert leaf.grad is not None
        return value.detach(), leaf.grad

    value, grad = run(logits, rest["target"])
    assert not grad[1, 4:].any()
    for odd in (float("nan"), float("inf"), 1e30):
        padded, target = logits.clone(), rest["target"].clone()
        padded[1, 4:] = odd
        target[1, 2] = 2
        other, other_grad = run(padded, target)
        assert torch.equal(other, value)
        assert torch.equal(other_grad, grad)


def test_gradient(value_of: Any) -> None:
    """With targets of different lengths, one of them impossible, and a frame of padding."""
    logits = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    rest = inputs([[1, 2, 3], [3, 3, 0], [2, 2, 2]], [5, 4, 3], [3, 2, 3])
    assert torch.autograd.gradcheck(lambda z: value_of(LOSS, student=z, **rest), logits)


def test_an_impossible_class_passes_no_nan(value_of: Any) -> None:
    logits = torch.randn(2, 4, 3, dtype=torch.float64)
    logits[..., 2] = -float("inf")
    logits.requires_grad_()
    value = value_of(LOSS, student=logits, **inputs([[1, 0], [2, 0]], [4, 4], [1, 1]))
    value.backward()
    with torch.no_grad():
        assert float(value) == pytest.approx(brute_force(logits[0], [1]) / 2)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[1].any()


def test_lengths_of_signals_are_cut_off(value_of: Any) -> None:
    logits = torch.randn(2, 6, 4, dtype=torch.float64)
    rest = inputs([[1, 2, 3], [3, 1, 0]], [6, 4], [3, 2])
    value = value_of(LOSS, student=logits, **rest)
    rest["input_lengths"] = rest["input_lengths"] + 0.75
    rest["target_lengths"] = rest["target_lengths"].float()
    assert torch.equal(value_of(LOSS, student=logits, **rest), value)


def test_lengths_of_the_batch_are_integers() -> None:
    spec: dict[str, Any] = {
        "kdgraph": 1,
        "name": "lengths",
        "batch": {
            "x": {"shape": ["B", 6, 8]},
            "text": {"shape": ["B", 3], "dtype": "int64"},
            "frames": {"shape": ["B"], "dtype": "int32"},
            "length": {"shape": ["B"], "dtype": "int64"},
        },
        "models": {"student": {"input": "x", "taps": {"logits": "output"}}},
        "losses": {
            "ctc": {
                "use": "ctc", "student": "student.logits", "target": "text",
                "input_lengths": "frames", "target_lengths": "length",
            }
        },
    }  # fmt: skip
    models = {"student": torch.nn.Linear(8, 4)}
    assert kdgraph.check(spec, models=models) == []
    spec["batch"]["frames"]["dtype"] = "float32"
    (error,) = kdgraph.check(spec, models=models)
    assert error.code == "KD304"
    assert "'input_lengths' takes integers, and 'frames' is float32" in error.message


def test_compiles_with_its_gradient() -> None:
    def run(student: Tensor, **rest: Tensor) -> Any:
        return LOSS.forward(student=student, **rest)

    rest = inputs([[1, 2, 3], [3, 1, 0]], [6, 4], [3, 2])
    leaf = torch.randn(2, 6, 4, requires_grad=True)
    other = leaf.detach().clone().requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    value, expected = compiled(leaf, **rest), run(other, **rest)
    value.backward()
    expected.backward()
    torch.testing.assert_close((value, leaf.grad), (expected, other.grad))


def test_operator_is_sound() -> None:
    from kdgraph.losses._ctc import negative_log_likelihood

    log_q = torch.randn(5, 2, 4, dtype=torch.float64).log_softmax(2).requires_grad_()
    given = (log_q, torch.tensor([[1, 2], [3, 0]]), torch.tensor([5, 4]), torch.tensor([2, 1]), 0)
    torch.library.opcheck(
        negative_log_likelihood, given, test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"student": (3, 4)}, "3 dimensions"),
        ({"target": (3,)}, "2 dimensions"),
        ({"target": (2, 5)}, "batch"),
        ({"input_lengths": (3, 1)}, "input lengths"),
        ({"target_lengths": (2,)}, "target lengths"),
        ({"student": (3, 8, 1)}, "no class beside"),
    ],
)
def test_shapes_that_do_not_fit(shapes: Any, said: str) -> None:
    fine = {"student": (3, 8, 4), "target": (3, 5), "input_lengths": (3,), "target_lengths": (3,)}
    LOSS.shapes(**fine)
    with pytest.raises(ShapeMismatch, match=said):
        LOSS.shapes(**{**fine, **shapes})
