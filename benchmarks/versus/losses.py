"""Losses alone, between given logits or maps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

import kdgraph
from versus import peer
from versus.sizes import Sizes
from versus.timing import Pair, Side

BOTH = {"student": "student.out", "teacher": "teacher.out"}


class Shift(nn.Module):
    """The smallest student there is: what it is given, plus one trained value per class."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        """``x + shift``."""
        return x + self.shift


def four_logit_losses(sizes: Sizes) -> Pair:
    """Soft target, DIST, standardised logits and reverse KL between the same logits."""
    rows, classes = sizes.logits
    # torchdistill standardises with the deviation over K - 1
    tau = 2.0 * math.sqrt(classes / (classes - 1))
    spec = {
        "signals": {
            "s": {"use": "normalise", "of": "student.out", "mode": "standardise"},
            "t": {"use": "normalise", "of": "teacher.out", "mode": "standardise"},
        },
        "losses": {
            "soft": {"use": "soft_target", **BOTH, "tau": 4.0},
            "dist": {"use": "dist", **BOTH},
            "standard": {
                "use": "soft_target", "student": "s", "teacher": "t",
                "tau": tau, "scale": False, "weight": 4.0,
            },
            "reverse": {"use": "reverse_kl", **BOTH},
        },
    }  # fmt: skip
    # without labels KDLoss and LogitStdKDLoss leave the factor tau**2 out
    terms = {
        "soft": peer.term("KDLoss", 16.0, temperature=4.0, alpha=0),
        "dist": peer.term("DISTLoss"),
        "standard": peer.term("LogitStdKDLoss", 4.0, temperature=2.0, alpha=0),
        "reverse": peer.wrapped("ReverseKLLoss", ".", "."),
    }
    given = {"student": 3 * torch.randn(rows, classes), "teacher": 3 * torch.randn(rows, classes)}
    return _pair(sizes, spec, terms, given, Shift(classes))


def spatial_correlation(sizes: Sizes) -> Pair:
    """How alike every two positions of a map are."""
    spec = {"losses": {"spatial": {"use": "spatial_correlation", **BOTH}}}
    terms = {"spatial": peer.wrapped("SpatialCorrelationLoss", ".", ".")}
    given = {"student": torch.randn(sizes.maps), "teacher": torch.randn(sizes.maps)}
    return _pair(sizes, spec, terms, given, Shift(sizes.maps[1], 1, 1))


def _pair(
    sizes: Sizes,
    spec: dict[str, Any],
    terms: dict[str, Any],
    given: dict[str, Tensor],
    student: Shift,
) -> Pair:
    """The same losses on both sides; the given student tensor gets a gradient too."""
    given = {name: tensor.to(sizes.device) for name, tensor in given.items()}
    shape = ["B", *given["student"].shape[1:]]
    whole = {
        "kdgraph": 1,
        "name": "vs-torchdistill",
        "batch": {"for_student": {"shape": shape}, "for_teacher": {"shape": shape}},
        "models": {n: {"input": f"for_{n}", "taps": {"out": "output"}} for n in given},
        **spec,
    }
    ours_given, theirs_given = given["student"].clone(), given["student"].clone()
    ours_student, theirs_student = student.to(sizes.device), Shift(*student.shift.shape)
    theirs_student.to(sizes.device)
    models = {"teacher": nn.Identity(), "student": ours_student}
    ours = kdgraph.compile(whole, models=models).to(sizes.device)
    ours.check_values = False  # torchdistill does not look for nan
    box = peer.box(
        nn.Identity(),
        theirs_student,
        terms,
        teacher_config={"forward_proc": "forward_teacher_entry"},
        student_config={"forward_proc": "forward_student_entry"},
    )
    ours_batch = {"for_student": ours_given, "for_teacher": given["teacher"]}
    theirs_batch = {"student": theirs_given, "teacher": given["teacher"]}
    return Pair(
        _side(lambda: ours(**ours_batch).loss, ours_student, ours_given),
        _side(lambda: box.forward_process(theirs_batch), theirs_student, theirs_given),
    )


def _side(loss: Any, student: Shift, given: Tensor) -> Side:
    return Side(loss, {"shift": student.shift, "given": given.requires_grad_()})
