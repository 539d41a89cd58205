"""Every operation is that of Pillow, at the strength that the authors' program gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kdgraph.errors import DataError
from kdgraph.train.data._split import seeded
from kdgraph.train.data.transforms.jda import JDA, POLICIES

pytest.importorskip("torchvision")
H, W = 20, 24


def smooth(channels: int = 3) -> Tensor:
    """Two images of bytes, neither flat nor noise."""
    rough = torch.rand(2, channels, 5, 6, generator=seeded("jda"))
    return torch.nn.functional.interpolate(rough, size=(H, W), mode="bilinear").mul(255).byte()


def by_pillow(operation: str, strength: int, sign: int) -> Callable[[Any], Any]:
    """The operation in Pillow's own words, with the magnitudes as ten evenly spaced values."""
    from PIL import Image, ImageEnhance, ImageOps

    def of(most: float, least: float = 0.0) -> float:
        return float(np.linspace(least, most, 10)[strength])

    def moved(*matrix: float, resample: Any = Image.Resampling.NEAREST) -> Callable[[Any], Any]:
        grey = {"fillcolor": (128,) * 3, "resample": resample}
        return lambda p: p.transform(p.size, Image.Transform.AFFINE, matrix, **grey)

    def enhanced(kind: Any) -> Callable[[Any], Any]:
        return lambda p: kind(p).enhance(1 + sign * of(0.9))

    bicubic = Image.Resampling.BICUBIC
    shear, across, down = sign * of(0.3), sign * of(150 / 331) * W, sign * of(150 / 331) * H
    ways: dict[str, Callable[[Any], Any]] = {
        "autocontrast": ImageOps.autocontrast,
        "brightness": enhanced(ImageEnhance.Brightness),
        "color": enhanced(ImageEnhance.Color),
        "contrast": enhanced(ImageEnhance.Contrast),
        "equalize": ImageOps.equalize,
        "invert": ImageOps.invert,
        "posterize": lambda p: ImageOps.posterize(p, int(np.round(of(4, 8)))),
        "rotate": lambda p: p.rotate(of(30), fillcolor=(128,) * 3),
        "sharpness": enhanced(ImageEnhance.Sharpness),
        "shear_x": moved(1, shear, 0, 0, 1, 0, resample=bicubic),
        "shear_y": moved(1, 0, 0, shear, 1, 0, resample=bicubic),
        "solarize": lambda p: ImageOps.solarize(p, of(0, 256)),  # type: ignore[arg-type]
        "translate_x": moved(1, 0, -across, 0, 1, 0),
        "translate_y": moved(1, 0, 0, 0, 1, -down),
    }
    return ways[operation]


OPERATIONS = sorted({name for _, steps in POLICIES.values() for step in steps for name in step})


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_are_those_of_pillow(operation: str) -> None:
    from PIL import Image

    from kdgraph.train.data.transforms._operations import operate

    images = smooth()
    for strength in (0, 1, 4, 5, 8, 9):
        found = operate(images, operation, strength, torch.tensor([1, -1]))
        for image, changed, sign in zip(images, found, (1, -1), strict=True):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            expected = np.array(by_pillow(operation, strength, sign)(picture))
            gap = changed.permute(1, 2, 0).numpy().astype(int) - expected
            assert np.abs(gap).max() <= 1  # a rounding


# the first operations of the 25 pairs that AutoAugment found for ImageNet
IMAGENET = [
    ("posterize", 8), ("solarize", 5), ("equalize", 8), ("posterize", 7), ("equalize", 7),
    ("equalize", 4), ("solarize", 3), ("posterize", 5), ("rotate", 3), ("equalize", 8),
    ("rotate", 8), ("rotate", 9), ("equalize", 7), ("invert", 4), ("color", 4),
    ("rotate", 8), ("color", 8), ("sharpness", 7), ("shear_x", 5), ("color", 0),
    ("equalize", 7), ("solarize", 5), ("invert", 4), ("color", 4), ("equalize", 8),
]  # fmt: skip


def test_published_lists() -> None:
    share, steps = JDA().steps()
    assert (share, len(steps)) == (0.3, 14)
    assert steps[:3] == [("autocontrast", 2), ("contrast", 3), ("posterize", 0)]
    assert ("shear_y", 0) in steps
    share, steps = JDA(policy="cifar10").steps()
    assert (share, steps[0], steps[-1]) == (0.5, ("invert", 7), ("shear_x", 8))
    assert JDA(policy="cifar10", probability=0.2).steps()[0] == 0.2
    share, steps = JDA(policy="imagenet").steps()
    assert share == 0.2
    assert steps == IMAGENET
    assert set(OPERATIONS) == {name for _, steps in POLICIES.values() for s in steps for name in s}


def test_two_steps_of_the_published_list_do_nothing() -> None:
    x = smooth().float() / 255
    idle = JDA.model_validate({"policy": [{"posterize": 0}, {"shear_y": 0}], "probability": 1})
    torch.testing.assert_close(idle.image(x, seeded("a")), x)


def test_a_step_may_come_more_than_once() -> None:
    x = smooth().float() / 255
    found = JDA(policy="imagenet", probability=1).image(x, seeded("f"))
    assert found.shape == x.shape
    twice = JDA.model_validate({"policy": [{"invert": 4}, {"invert": 4}], "probability": 1})
    torch.testing.assert_close(twice.image(x, seeded("f")), x)


def test_what_happens_is_drawn_image_by_image() -> None:
    x = smooth(1)[:1].float().expand(400, 1, H, W) / 255
    entry = JDA.model_validate({"policy": [{"invert": 0}, {"brightness": 9}], "probability": 0.25})
    after = entry.image(x, seeded("b"))
    assert torch.equal(after, entry.image(x, seeded("b")))
    assert not torch.equal(after, entry.image(x, seeded("c")))
    kinds = {tuple(image.flatten().tolist()) for image in after}
    assert len(kinds) == 6  # inverted or not, and darker, lighter or neither
    untouched = (after == x).flatten(1).all(1).float().mean()
    assert untouched == pytest.approx(0.75**2, abs=0.08)


def test_probabilities_of_one_and_none() -> None:
    x = smooth().float() / 255
    assert torch.equal(JDA(probability=0.0).image(x, seeded("d")), x)
    turned = JDA.model_validate({"policy": [{"invert": 3}], "probability": 1}).image(x, seeded("d"))
    torch.testing.assert_close(turned, 1 - x)
    assert turned.dtype == x.dtype


def test_other_channels_are_refused() -> None:
    with pytest.raises(DataError, match="4"):
        JDA().image(torch.zeros(1, 4, 8, 8), seeded("e"))


@pytest.mark.parametrize(
    "policy", ["svhn", [], [{"blur": 3}], [{"invert": 10}], [{"invert": 1, "rotate": 2}]]
)
def test_other_lists_are_refused(policy: object) -> None:
    with pytest.raises(ValidationError):
        JDA.model_validate({"policy": policy})
