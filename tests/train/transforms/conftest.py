from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from kdgraph.train.data.transforms.base import ImageTransform


class Darker(ImageTransform):
    """Half of the light."""

    use: Literal["darker"] = "darker"

    def image(self, x: Tensor, chance: torch.Generator) -> Tensor:
        return x / 2


@pytest.fixture
def darker() -> type[ImageTransform]:
    return Darker
