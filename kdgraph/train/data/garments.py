"""Garments: pictures to be segmented, put together from real clothes and real photographs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdgraph.spec.data import Normalise, register_data
from kdgraph.train.data.base import DataSet, Splits, library
from kdgraph.train.data.fashion_mnist import FashionMnist

if TYPE_CHECKING:
    from kdgraph.train.data._split import Split

_IMAGES = {"train": 2000, "val": 300, "test": 500}
_BANDS = {"train": (0, 384), "val": (384, 512), "test": (512, 640)}  # columns of a photograph


@register_data
class Garments(DataSet):
    """``garments``: images [3, 64, 64] with one to three garments, and the class of every pixel.

    Semi-synthetic: no one took these pictures. Garments of Fashion-MNIST (Xiao, Rasul, Vollgraf
    2017, 1708.07747), cut out where they are not black, enlarged 1.3 to 2 times and coloured, lie
    on pieces of scikit-learn's two photographs and may cover each other. So shapes and textures
    are real, while light and arrangement are not, and edges are clean.

    Columns are ``image`` and ``label`` [64, 64]: 0 is the background, 1 to 10 are Fashion-MNIST's
    classes in their order, and 255 is the border of one pixel around each garment, which belongs
    to no class. 2,000 images are for training, 300 for validation, 500 for the test. They share
    neither garments, which follow ``fashion_mnist``'s own parts, nor backgrounds, which are
    three bands of each photograph. ``split_seed`` draws all of it.
    """

    use: Literal["garments"] = "garments"

    path: str | None = None
    """A folder with the four files of Fashion-MNIST, or the one to download them to."""

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        import torch

        from kdgraph.train.data import _paste
        from kdgraph.train.data._split import seeded

        clothes = FashionMnist(path=self.path, split_seed=self.split_seed).load(folder)
        samples = library("sklearn.datasets", "garments", "train").load_sample_images()
        photos = torch.stack([torch.from_numpy(p.copy()) for p in samples.images])
        photos = photos.permute(0, 3, 1, 2).float()  # [2, 3, 427, 640]
        made: dict[str, Split] = {}
        for part, count in _IMAGES.items():
            first, last = _BANDS[part]
            chance = seeded("garments", part, self.split_seed)
            drawn = torch.randint(len(getattr(clothes, part)), (3 * count,), generator=chance)
            rows = getattr(clothes, part).rows(drawn.tolist())
            made[part] = _paste.pictures(
                rows["image"].view(count, 3, 28, 28),
                rows["label"].view(count, 3),
                photos[..., first:last],
                chance,
            )
        note = (
            "put together; no garment and no piece of a photograph is in two of the parts "
            "(Fashion-MNIST's own split, three bands of each photograph)"
        )
        return Splits(made["train"], made["val"], made["test"], note)

    def known_rows(self) -> int:
        return _IMAGES["train"]

    def scaling(self) -> Normalise | None:
        # mean and deviation of the 2,000 training images
        return self.normalise or Normalise(
            mean=(0.3888, 0.3824, 0.3500), std=(0.2972, 0.2370, 0.2485)
        )
