"""What is compared: one function per case makes both sides over equal models and batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from versus import images, losses
from versus.sizes import Sizes
from versus.timing import Pair


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        title: what is distilled how.
        make: both sides, at these sizes.
        target: the ratio of times, theirs over ours, that kdgraph aims at.
        memory_target: the ratio of peak memory, likewise.
        compiled: whether both sides go through ``torch.compile``.
        notes: what a reader has to know about how the sides are set up.
    """

    title: str
    make: Callable[[Sizes], Pair]
    target: float | None = None
    memory_target: float | None = None
    compiled: bool = False
    notes: str = ""


_WHOLE = "torchdistill's hooks sit in the whole models, as in its recipes of every other method"

CASES = {
    "hint": Case(
        "hint at layer2, ResNet-50 to ResNet-18",
        images.hint,
        target=1.8,
        notes=f"{_WHOLE}; its regressor is an auxiliary wrapper",
    ),
    "hint-compiled": Case(
        "the same, both sides compiled",
        images.hint,
        target=2.5,
        compiled=True,
        notes="torch.compile on kdgraph's step, and on the forward process of torchdistill's box",
    ),
    "hint-cut-by-hand": Case(
        "the same, torchdistill's models cut by hand",
        images.hint_cut_by_hand,
        notes="both models are listed layer by layer under `sequential`, as in its FitNet recipe; "
        "only models that are chains of modules can be",
    ),
    "hint-and-labels": Case(
        "hint at layer2 and labels, ResNet-50 to ResNet-18",
        images.hint_and_labels,
        notes=f"{_WHOLE}; nothing of the student can be left out",
    ),
    "logits": Case("logits only, ResNet-50 to ResNet-18", images.logits, target=1.25),
    "four-logit-losses": Case(
        "soft target, DIST, standardised logits and reverse KL",
        losses.four_logit_losses,
        target=2.0,
        notes="the losses alone: the student adds one trained row to given logits, on both sides; "
        "reverse KL is registered in torchdistill, which has none; kdgraph looks for no nan",
    ),
    "spatial-correlation": Case(
        "spatial correlation of maps",
        losses.spatial_correlation,
        target=15.0,
        memory_target=50.0,
        notes="the loss alone: the student adds one trained value per channel to given maps, on "
        "both sides; the HW x HW form is registered in torchdistill, which has none",
    ),
    "three-teachers": Case(
        "the mean of three ResNet-50, to ResNet-18",
        images.three_teachers,
        target=1.3,
        notes="torchdistill takes one teacher: a module that runs the three",
    ),
    "vit": Case(
        "hint at block 6 of 12, ViT-S to DeiT-tiny",
        images.vit,
        target=1.4,
        notes=f"{_WHOLE}; these cannot be cut by hand as its lists do",
    ),
    "vit-and-labels": Case(
        "hint at block 6 of 12 and labels, ViT-S to DeiT-tiny",
        images.vit_and_labels,
        notes=f"{_WHOLE}; nothing of the student can be left out",
    ),
}
