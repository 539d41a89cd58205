"""Joint data augmentation: a list of single operations, each of which may come upon an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdgraph.errors import DataError
from kdgraph.spec.transforms import register_transform
from kdgraph.spec.types import Fraction
from kdgraph.train.data.base import library
from kdgraph.train.data.transforms.base import ImageTransform

if TYPE_CHECKING:
    from torch import Generator, Tensor

Operation = Literal[
    "autocontrast", "brightness", "color", "contrast", "equalize", "invert", "posterize",
    "rotate", "sharpness", "shear_x", "shear_y", "solarize", "translate_x", "translate_y",
]  # fmt: skip
Strength = Annotated[int, Field(ge=0, le=9)]
_MOVING = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
Step = Annotated[dict[Operation, Strength], Field(min_length=1, max_length=1)]

POLICIES: dict[str, tuple[float, tuple[dict[str, int], ...]]] = {
    "cifar100": (
        0.3,
        (
            *({"autocontrast": 2}, {"contrast": 3}, {"posterize": 0}, {"solarize": 4}),
            *({"translate_y": 8}, {"shear_x": 5}, {"brightness": 3}, {"shear_y": 0}),
            *({"translate_x": 1}, {"sharpness": 5}, {"invert": 4}, {"color": 4}),
            *({"equalize": 8}, {"rotate": 3}),
        ),
    ),
    "cifar10": (
        0.5,
        (
            *({"invert": 7}, {"rotate": 2}, {"shear_y": 8}, {"posterize": 9}),
            *({"autocontrast": 8}, {"color": 3}, {"sharpness": 9}, {"equalize": 5}),
            *({"contrast": 7}, {"translate_y": 3}, {"brightness": 6}, {"solarize": 2}),
            *({"translate_x": 3}, {"shear_x": 8}),
        ),
    ),
    "imagenet": (
        0.2,
        (
            *({"posterize": 8}, {"solarize": 5}, {"equalize": 8}, {"posterize": 7}),
            *({"equalize": 7}, {"equalize": 4}, {"solarize": 3}, {"posterize": 5}),
            *({"rotate": 3}, {"equalize": 8}, {"rotate": 8}, {"rotate": 9}, {"equalize": 7}),
            *({"invert": 4}, {"color": 4}, {"rotate": 8}, {"color": 8}, {"sharpness": 7}),
            *({"shear_x": 5}, {"color": 0}, {"equalize": 7}, {"solarize": 5}, {"invert": 4}),
            *({"color": 4}, {"equalize": 8}),
        ),
    ),
}


@register_transform
class JDA(ImageTransform):
    """Each operation of an ordered list comes upon an image with the same ``probability``.

    Li, Shao, Qiu, Song 2024 (10.1016/j.neucom.2024.127516), in the lists of the authors' program.
    A step ``{rotate: 3}`` is an operation and its strength, one of ten evenly spaced values from
    0: shear to 0.3, translation to 150/331 of the side, rotation to 30 degrees, brightness,
    color, contrast and sharpness to 1 +- 0.9, posterize from 8 bits to 4, solarize from a
    threshold of 256 to 0; the others have none. The sign is drawn, but for a rotation, which
    always turns the same way. What comes in is grey.

    The operations are those of torchvision and Pillow, on bytes: images are grey or RGB.
    """

    use: Literal["jda"] = "jda"

    policy: (
        Literal["cifar100", "cifar10", "imagenet"]
        | Annotated[tuple[Step, ...], Field(strict=False, min_length=1)]
    ) = "cifar100"
    """A published list, or a list of one's own: ``[{contrast: 3}, {rotate: 9}]``."""

    probability: Fraction | None = None
    """Of each operation; left out: 0.5 for ``cifar10``, 0.2 for ``imagenet``, else 0.3."""

    def moves(self) -> tuple[str, ...]:
        moving = any(name in _MOVING and strength for name, strength in self.steps()[1])
        return (self.entry,) if moving else ()

    def image(self, x: Tensor, chance: Generator) -> Tensor:
        import torch

        library("torchvision.transforms.v2", "jda", "vision")
        from kdgraph.train.data.transforms._operations import operate

        if x.shape[1] not in (1, 3):
            raise DataError.of("KD711", f"jda takes images of 1 or 3 channels, not {x.shape[1]}")
        share, steps = self.steps()
        fires = torch.rand(len(x), len(steps), generator=chance) < share
        signs = 2 * torch.randint(2, fires.shape, generator=chance) - 1
        pictures = (x * 255).round().to(torch.uint8)
        for (operation, strength), fire, sign in zip(steps, fires.T, signs.T, strict=True):
            if len(rows := fire.nonzero().flatten()):
                pictures[rows] = operate(pictures[rows], operation, strength, sign[rows])
        return pictures.to(x.dtype) / 255

    def steps(self) -> tuple[float, list[tuple[str, int]]]:
        """The probability of each operation, and the operations with their strengths."""
        if isinstance(self.policy, str):
            share, listed = POLICIES[self.policy]
        else:
            share, listed = 0.3, tuple({str(k): v for k, v in s.items()} for s in self.policy)
        named = [pair for step in listed for pair in step.items()]
        return share if self.probability is None else self.probability, named
