"""Folders of images, one folder a class."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.errors import DataError
from kdgraph.spec.training import Normalise, register_data
from kdgraph.spec.types import Count
from kdgraph.train.data.base import DataSet, Splits, library

if TYPE_CHECKING:
    from torch import Tensor


@register_data
class ImageFolder(DataSet):
    """``imagefolder``: ``path/train/CLASS/*.jpg``, and ``val`` and ``test`` beside ``train``.

    Read by torchvision. Columns are ``image`` [3, size, size] and ``label``, the place of the
    class's name in alphabetical order. Without ``test`` the final figures are those of ``val``,
    and are called so. Images are resized on the shorter side and cropped in the centre.
    """

    use: Literal["imagefolder"] = "imagefolder"

    path: str
    """The folder that holds ``train`` and ``val``."""

    size: Count = 224
    """Height and width of an image in pixels."""

    workers: Count = 2
    """Processes that read images."""

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        root = folder / self.path
        train, classes = self._part(root / "train")
        parts = {"val": root / "val", "test": root / "test"}
        others = {name: self._part(place) for name, place in parts.items() if place.is_dir()}
        if "val" not in others:
            raise DataError.of("KD710", f"there is no folder {parts['val']}")
        for name, (_, theirs) in others.items():
            if theirs != classes:
                odd = ", ".join(sorted(set(theirs) ^ set(classes))[:5])
                raise DataError.of(
                    "KD719", f"{parts[name]} and {root / 'train'} hold different classes: {odd}"
                )
        test = others["test"][0] if "test" in others else None
        note = "split as the folders are"
        return Splits(train, others["val"][0], test, note)

    def _part(self, place: Path) -> tuple[Any, list[str]]:
        from kdgraph.train.data._split import RowSplit

        library("torchvision", "imagefolder", "vision")
        from torchvision.datasets import ImageFolder as Images

        try:
            images = Images(str(place))
        except (FileNotFoundError, RuntimeError) as error:
            raise DataError.of("KD710", f"{place} cannot be read: {error}") from error
        return RowSplit(images, self._row, columns=("image", "label")), images.classes

    def _row(self, row: tuple[Any, int]) -> dict[str, Tensor]:
        import torch

        from kdgraph.train.data._image import square

        return {"image": square(row[0].convert("RGB"), self.size), "label": torch.tensor(row[1])}

    def scaling(self) -> Normalise | None:
        # of ImageNet's training images, as torchvision's and timm's weights expect
        return self.normalise or Normalise(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
