"""Folders of images, one folder a class."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.errors import DataError
from kdgraph.spec.data import Normalise, register_data
from kdgraph.spec.types import Count, Whole
from kdgraph.train.data._stems import GroupRule, group_key
from kdgraph.train.data.base import DataSet, Splits, library

if TYPE_CHECKING:
    from torch import Tensor

    from kdgraph.train.data._split import RowSplit


@register_data
class ImageFolder(DataSet):
    """``imagefolder``: ``path/train/CLASS/*.jpg``, and ``val`` and ``test`` beside ``train``.

    Read by torchvision. Columns are ``image`` [3, size, size] and ``label``, the place of the
    class's name in alphabetical order. Without ``test`` the final figures are those of ``val``,
    and are called so. Images are resized on the shorter side and cropped in the centre.

    ``groups`` says which files belong together, several images of one case or copies of one
    file, so that none of them is learnt and another tested. With it ``path/CLASS/*.jpg`` will do:
    where there is no folder ``train``, whole groups are drawn, 70 % of the images for training, 15
    for validation and 15 for the test. Where there is one, no group may be on two sides.
    """

    use: Literal["imagefolder"] = "imagefolder"

    path: str
    """The folder that holds ``train`` and ``val``, or with ``groups`` one folder a class."""

    size: Count = 224
    """Height and width of an image in pixels."""

    groups: GroupRule | None = None
    """``stem``: names of files less extension and copy or augmentation suffix; or a regular
    expression with one capture group, such as ``(patient\\d+)_``."""

    workers: Whole = 2
    """Processes that read images."""

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        root = folder / self.path
        if self.groups is not None and not (root / "train").is_dir():
            return self._grouped(root, self.groups)
        train = self._part(root / "train")
        places = {"val": root / "val", "test": root / "test"}
        others = {name: self._part(place) for name, place in places.items() if place.is_dir()}
        if "val" not in others:
            raise DataError.of("KD710", f"there is no folder {places['val']}")
        classes = train.source.classes
        for name, part in others.items():
            if part.source.classes != classes:
                odd = ", ".join(sorted(set(part.source.classes) ^ set(classes))[:5])
                raise DataError.of(
                    "KD719", f"{places[name]} and {root / 'train'} hold different classes: {odd}"
                )
        note = "split as the folders are"
        if self.groups is not None:
            from kdgraph.train.data._groups import check_disjoint

            parts = {"train": train, **others}
            keys = {name: set(_keys(part, self.groups)) for name, part in parts.items()}
            check_disjoint(keys)
            note += f"; none of {sum(map(len, keys.values())):,} groups is on two sides"
        return Splits(train, others["val"], others.get("test"), note)

    def _grouped(self, root: Path, rule: str) -> Splits:
        from kdgraph.train.data._groups import note_of, split_groups

        whole = self._part(root)
        keys, labels = _keys(whole, rule), whole.labels()
        assert labels is not None
        train, val, test = split_groups(keys, labels, self.split_seed)
        return Splits(whole.subset(train), whole.subset(val), whole.subset(test), note_of(keys))

    def _part(self, place: Path) -> RowSplit:
        import torch

        from kdgraph.train.data._split import RowSplit

        library("torchvision", "imagefolder", "vision")
        from torchvision.datasets import ImageFolder as Images

        try:
            images = Images(str(place))
        except (FileNotFoundError, RuntimeError) as error:
            raise DataError.of("KD710", f"{place} cannot be read: {error}") from error
        labels = torch.tensor(images.targets)
        files = [(path,) for path, _ in images.samples]
        columns = ("image", "label")
        return RowSplit(images, self._row, columns=columns, labels=labels, files=files)

    def _row(self, row: tuple[Any, int]) -> dict[str, Tensor]:
        import torch

        from kdgraph.train.data._image import square

        return {"image": square(row[0].convert("RGB"), self.size), "label": torch.tensor(row[1])}

    def scaling(self) -> Normalise | None:
        # of ImageNet's training images, as torchvision's and timm's weights expect
        return self.normalise or Normalise(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def _keys(part: RowSplit, rule: str) -> list[str]:
    """The group of each image."""
    return [group_key(file, rule) for file, _ in part.source.samples]
