"""Near duplicates: several pictures of each garment, in classes of unequal size."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdgraph.errors import DataError
from kdgraph.spec.data import Normalise, register_data
from kdgraph.spec.types import Count
from kdgraph.train.data._stems import group_key
from kdgraph.train.data.base import DataSet, Splits
from kdgraph.train.data.fashion_mnist import FashionMnist

if TYPE_CHECKING:
    from torch import Generator, Tensor

_TOPS = (0, 2, 3, 4, 6)  # T-shirt, pullover, dress, coat, shirt: easily mistaken for each other
_MOST = 8  # pictures of one garment


@register_data
class NearDuplicates(DataSet):
    """``near_duplicates``: images [3, size, size] of five kinds of tops, ``image``, ``label``.

    A stand-in for medical images, where one case gives several pictures: garments of
    Fashion-MNIST, each shown 1 to 8 times, a little moved, lighter or darker, and with speckle
    (noise that grows with the light, as in ultrasound). Each picture has a file name such as
    ``F2_case0031_aug3.png``, and the parts are drawn by the same code as those of
    ``imagefolder: {groups: stem}``: all pictures of a garment are in one part. The images are
    those of the data set ``fashion_mnist``, which says where they come from.
    """

    use: Literal["near_duplicates"] = "near_duplicates"

    counts: Annotated[tuple[Count, ...], Field(strict=False, min_length=2, max_length=5)] = (
        2114, 861, 793, 857, 1698,
    )  # fmt: skip
    """Pictures of each class; left out: as unequal as the five stages of a liver data set."""

    size: Literal[16, 32] = 32
    """Height and width of an image in pixels; 16 is the mean of every four of 32."""

    path: str | None = None
    """Where the files of Fashion-MNIST are, or are downloaded to."""

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        import torch

        from kdgraph.train.data._groups import note_of, split_groups
        from kdgraph.train.data._split import TensorSplit, seeded

        garments, kinds = FashionMnist(path=self.path).images(folder, "train")
        pictures, names = [], []
        for label, count in enumerate(self.counts):
            chance = seeded("near_duplicates", label)
            own = (kinds == _TOPS[label]).nonzero().squeeze(1)
            if count > len(own):
                message = f"near_duplicates: {count} pictures are more than {len(own)} garments"
                raise DataError.of("KD719", message)
            own = own[torch.randperm(len(own), generator=chance)[:count]]
            case = _cases(count, chance)
            pictures.append(_pictures(garments[own[case]], self.size, chance))
            names += _names(label, case.tolist())
        labels = torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))
        whole = TensorSplit({"image": torch.cat(pictures), "label": labels})
        groups = [group_key(name, "stem") for name in names]
        train, val, test = split_groups(groups, labels, self.split_seed)
        return Splits(whole.subset(train), whole.subset(val), whole.subset(test), note_of(groups))

    def scaling(self) -> Normalise | None:
        return self.normalise or Normalise(mean=(0.5,) * 3, std=(0.5,) * 3)


def _cases(count: int, chance: Generator) -> Tensor:
    """Which case each of ``count`` pictures is of: 0 0 0 1 2 2 ..."""
    import torch

    sizes = torch.randint(1, _MOST + 1, (count,), generator=chance)
    return torch.arange(count).repeat_interleave(sizes)[:count]


def _names(label: int, cases: Sequence[int]) -> list[str]:
    """File names such as a folder of them would hold."""
    seen: dict[int, int] = {}
    names = []
    for case in cases:
        seen[case] = seen.get(case, -1) + 1
        names.append(f"F{label}_case{case:04d}_aug{seen[case]}.png")
    return names


def _pictures(garments: Tensor, size: int, chance: Generator) -> Tensor:
    """uint8 [N, 1, 28, 28] to [N, 3, size, size], each changed a little by itself."""
    import torch
    from torch.nn import functional as F

    from kdgraph.spec.data import Augment
    from kdgraph.train.data._batches import augmented

    x = F.pad(garments.float() / 255, (2, 2, 2, 2))
    x = F.avg_pool2d(augmented(x, Augment(shift=2), chance), 32 // size)
    light = 0.8 + 0.4 * torch.rand(len(x), 1, 1, 1, generator=chance)
    speckle = 1 + 0.25 * torch.randn(x.shape, generator=chance)
    return (255 * (x * light * speckle).clamp(0, 1)).byte().expand(-1, 3, -1, -1).contiguous()
