"""Fashion-MNIST: 70,000 pictures of clothes in 10 classes."""

from __future__ import annotations

import gzip
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdgraph.errors import DataError
from kdgraph.spec.data import Normalise, register_data
from kdgraph.train.data.base import DataSet, Splits, library

if TYPE_CHECKING:
    from torch import Tensor

SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
_VAL = 5_000


@register_data
class FashionMnist(DataSet):
    """``fashion_mnist``: images [1, 28, 28], columns ``image`` and ``label``, 10 classes.

    Xiao, Rasul, Vollgraf 2017 (1708.07747). The official 10,000 test images are the test;
    5,000 of the 60,000 training images, 500 of each class, are drawn once for validation.
    Files are taken from ``path``, else from the Debian package ``dataset-fashion-mnist``, else
    torchvision downloads them to ``path`` (default ``data``).
    """

    use: Literal["fashion_mnist"] = "fashion_mnist"

    path: str | None = None
    """A folder with the four files of the data set, or the one to download them to."""

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        from kdgraph.train.data._split import TensorSplit, draw

        whole, test = (
            TensorSplit(dict(zip(("image", "label"), self.images(folder, part), strict=True)))
            for part in ("train", "t10k")
        )
        val, train = draw(whole, _VAL, "fashion_mnist validation", self.split_seed)
        note = "the official test images; 5,000 training images drawn for validation"
        return Splits(whole.subset(train), whole.subset(val), test, note)

    def images(self, folder: Path, part: str) -> tuple[Tensor, Tensor]:
        """Images uint8 [N, 1, 28, 28] and labels [N] of the part ``train`` or ``t10k``."""
        source = self._folder(folder)
        image = _read(source, f"{part}-images-idx3").unsqueeze(1)
        return image, _read(source, f"{part}-labels-idx1").long()

    def _folder(self, folder: Path) -> Path:
        own = folder / self.path if self.path else None
        for place in (own, SYSTEM):
            if place is not None and list(place.glob("train-images-idx3-ubyte*")):
                return place
        root = own or Path("data")
        try:
            library("torchvision.datasets", "fashion_mnist", "vision").FashionMNIST(
                root=str(root), download=True
            )
        except (OSError, RuntimeError) as error:
            raise DataError.of(
                "KD710",
                f"Fashion-MNIST is not on this machine and cannot be downloaded: {error}",
                help="apt install dataset-fashion-mnist, or give the folder of its files as `path`",
            ) from error
        return root / "FashionMNIST" / "raw"

    def known_rows(self) -> int:
        return 60_000 - _VAL

    def scaling(self) -> Normalise | None:
        # mean and deviation of the 60,000 training images
        return self.normalise or Normalise(mean=(0.2860,), std=(0.3530,))


def _read(folder: Path, name: str) -> Tensor:
    """One idx file of unsigned bytes, compressed or not."""
    import torch

    path = folder / f"{name}-ubyte"
    packed = path.with_name(f"{path.name}.gz")
    try:
        data = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
        if data[:3] != b"\0\0\x08":
            raise ValueError("it does not begin as an idx file of bytes does")
        sizes = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
        return torch.frombuffer(bytearray(data[4 + 4 * len(sizes) :]), dtype=torch.uint8).view(
            sizes
        )
    except (OSError, EOFError, ValueError, RuntimeError) as error:
        raise DataError.of("KD710", f"{path} cannot be read: {error}") from error
