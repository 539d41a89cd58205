"""MixUp: images blended with each other, and both labels kept."""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import TYPE_CHECKING, Literal

from kdgraph.errors import DataError
from kdgraph.spec.transforms import register_transform
from kdgraph.spec.types import Name, Positive
from kdgraph.train.data.transforms.base import Batch, Scope, Transform

if TYPE_CHECKING:
    from torch import Generator, Tensor


@register_transform
class MixUp(Transform):
    """``x = m x_a + (1 - m) x_b`` with ``m ~ Beta(alpha, alpha)``, b a permutation of the batch.

    Zhang et al. 2018 (arXiv 1710.09412). Adds the label of the second image, [B], and ``m``, the
    share of the first, float32 [B]; the label of the first stays where it was. A loss on both is
    two edges: one on the label with ``m`` as its weight, one on the added label with ``1 - m``.
    """

    use: Literal["mixup"] = "mixup"

    alpha: Positive = 0.2
    """Both parameters of the Beta distribution; 1 draws the share evenly."""

    entry: Name = "image"
    """The column that is mixed, of any floating shape [B, ...]."""

    label: Name = "label"
    """The column of labels."""

    label_b: Name = "label_b"
    """What the column with the second labels is called."""

    mix: Name = "mix"
    """What the column with the shares of the first is called."""

    per: Literal["batch", "sample"] = "batch"
    """Whether one share is drawn for all (as in the authors' code) or one for each."""

    def reads(self) -> tuple[str, ...]:
        return (self.entry, self.label)

    def adds(self) -> tuple[str, ...]:
        return (self.label_b, self.mix)

    def scope(self) -> Scope:
        return "mix"

    def apply(self, batch: Batch, chance: Generator) -> Batch:
        return self.along(batch, chance, ())

    def along(self, batch: Batch, chance: Generator, others: Collection[str]) -> Batch:
        import torch

        x, label = batch[self.entry], batch[self.label]
        if not x.is_floating_point():
            message = f"mixup cannot blend {self.entry!r}, a column of whole numbers ({x.dtype})"
            raise DataError.of("KD711", message)
        B = len(x)
        other = torch.randperm(B, generator=chance)
        # torch draws from a Beta distribution without a generator of one's own
        random = Random(int(torch.randint(2**62, (), generator=chance)))
        drawn = [random.betavariate(self.alpha, self.alpha) for _ in range(self._draws(B))]
        mix = torch.tensor(drawn, dtype=torch.float32).expand(B)  # [B]
        mixed = {n: _blend(batch[n], batch[n][other], mix) for n in (self.entry, *others)}
        return {**batch, **mixed, self.label_b: label[other], self.mix: mix.clone()}

    def _draws(self, B: int) -> int:
        return 1 if self.per == "batch" else B


def _blend(a: Tensor, b: Tensor, mix: Tensor) -> Tensor:
    """``m a + (1 - m) b`` for each row, m of [B]."""
    share = mix.to(a.dtype).reshape(len(a), *[1] * (a.dim() - 1))
    return share * a + (1 - share) * b
