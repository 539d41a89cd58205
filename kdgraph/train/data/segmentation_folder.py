"""Images in one folder, the class of every pixel in another: VOC, Cityscapes, CamVid, your own."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from kdgraph.errors import DataError
from kdgraph.spec.data import Normalise, register_data
from kdgraph.spec.types import Count, Form, Strict, Whole
from kdgraph.train.data.base import DataSet, Splits, library

if TYPE_CHECKING:
    from torch import Tensor

    from kdgraph.train.data._split import Split

_PATTERN = Form(r"[^{}]*(\{part\}[^{}]*)*\{name\}[^{}]*", "a path with {name} in it")
Pattern = Annotated[str, _PATTERN]
Pair = tuple[Path, Path]


class Parts(Strict):
    """What ``{part}`` stands for; without ``test`` the final figures are those of ``val``."""

    train: str = "train"
    val: str = "val"
    test: str | None = None


@register_data
class SegmentationFolder(DataSet):
    """``segmentation_folder``: images, and PNG files with the class number of every pixel.

    Columns are ``image`` [3, H, W] and ``label`` [H, W]. Class numbers are what the PNG holds, as
    grey value or place in its palette; those that are no class (255 in VOC and Cityscapes, 11 in
    CamVid) are for the ``ignore_index`` of what reads them. ``image`` and ``label`` are paths
    below ``path`` in which ``{part}`` stands for the part and ``{name}`` for all that tells one
    picture from another, slashes too::

        Cityscapes: leftImg8bit/{part}/{name}_leftImg8bit.png
                    gtFine/{part}/{name}_gtFine_labelTrainIds.png
        CamVid:     {part}/{name}.png, {part}annot/{name}.png, and splits: {test: test}
        VOC 2012:   JPEGImages/{name}.jpg, SegmentationClass/{name}.png, and
                    names: ImageSets/Segmentation/{part}.txt

    Both are scaled alike until they cover ``size``, labels without mixing them, and cut to it in
    the centre.
    """

    use: Literal["segmentation_folder"] = "segmentation_folder"

    path: str
    """The folder that all else lies in."""

    image: Pattern = "images/{part}/{name}.jpg"
    """Where the images are."""

    label: Pattern = "labels/{part}/{name}.png"
    """Where the label map of each image is."""

    names: str | None = None
    """A list of the names of a part, one a line; left out: every image that there is."""

    splits: Parts = Parts()
    """Which part is for what."""

    size: Annotated[tuple[Count, Count], Field(strict=False)] = (256, 256)
    """Height and width of what a model sees, in pixels."""

    workers: Whole = 2
    """Processes that read images."""

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        library("PIL.Image", "segmentation_folder", "train")
        parts = {"train": self.splits.train, "val": self.splits.val, "test": self.splits.test}
        found = {n: self._pairs(folder / self.path, p) for n, p in parts.items() if p is not None}
        seen: dict[Path, str] = {}
        for name, pairs in found.items():
            for image, _ in pairs:
                if seen.setdefault(image, name) != name:
                    message = f"{image} is in the {seen[image]} and the {name} part"
                    raise DataError.of("KD719", message)
        splits = {name: self._split(pairs) for name, pairs in found.items()}
        return Splits(
            splits["train"], splits["val"], splits.get("test"), "split as the folders or lists are"
        )

    def scaling(self) -> Normalise | None:
        # of ImageNet's training images, as torchvision's and timm's weights expect
        return self.normalise or Normalise(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    def _pairs(self, root: Path, part: str) -> list[Pair]:
        """Images and their label maps, in the order of their names or of the list."""
        image, label = (p.replace("{part}", part) for p in (self.image, self.label))
        if self.names is None:
            names = _found(root, image)
        else:
            names = _listed(root / self.names.replace("{part}", part))
        if not names:
            raise DataError.of("KD710", f"part {part!r}: nothing fits {root / image}")
        pairs = [
            (root / image.replace("{name}", name), root / label.replace("{name}", name))
            for name in names
        ]
        missing = [path for pair in pairs for path in pair if not path.is_file()]
        if missing:
            more = f", and {len(missing) - 1} more are missing" if len(missing) > 1 else ""
            raise DataError.of("KD710", f"part {part!r}: there is no {missing[0]}{more}")
        return pairs

    def _split(self, pairs: list[Pair]) -> Split:
        from kdgraph.train.data._split import RowSplit

        return RowSplit(pairs, self._row, columns=("image", "label"), files=pairs)

    def _row(self, pair: Pair) -> dict[str, Tensor]:
        from PIL import Image

        from kdgraph.train.data._image import class_numbers, to_tensor

        with Image.open(pair[0]) as image, Image.open(pair[1]) as label:
            if label.mode not in ("L", "P"):
                message = f"{pair[1]} holds colours ({label.mode}), not one class number a pixel"
                raise DataError.of("KD719", message)
            if image.size != label.size:
                sizes = " and ".join(f"{w} x {h}" for w, h in (image.size, label.size))
                raise DataError.of("KD719", f"{pair[0]} and its label map differ in size: {sizes}")
            picture = self._cut(image.convert("RGB"), Image.Resampling.BICUBIC)
            marks = self._cut(label, Image.Resampling.NEAREST)
        return {"image": to_tensor(picture), "label": class_numbers(marks)}

    def _cut(self, image: Any, how: Any) -> Any:
        """Scaled to cover the size, and the centre of it."""
        height, width = self.size
        scale = max(width / image.width, height / image.height)
        across, down = (
            max(least, round(side * scale))
            for least, side in ((width, image.width), (height, image.height))
        )
        left, top = (across - width) // 2, (down - height) // 2
        box = (left, top, left + width, top + height)
        return image.resize((across, down), how).crop(box)


def _found(root: Path, image: str) -> list[str]:
    """What ``{name}`` stands for in each image that is there."""
    before, _, after = image.partition("{name}")
    fits = re.compile(f"{re.escape(before)}(.+){re.escape(after)}")
    top = root / before.rpartition("/")[0]
    paths = (p.relative_to(root).as_posix() for p in top.rglob("*"))
    return sorted(found[1] for p in paths if (found := fits.fullmatch(p)))


def _listed(path: Path) -> list[str]:
    """The first word of every line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError.of("KD710", f"{path} cannot be read: {error}") from error
    return [line.split()[0] for line in lines if line.strip()]
