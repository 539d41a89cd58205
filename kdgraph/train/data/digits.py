"""scikit-learn's handwritten digits: real, small, always at hand."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from kdgraph.spec.data import Normalise, register_data
from kdgraph.train.data.base import DataSet, Splits, library

# Where the sheets begin. The digits lie in the order in which people wrote them: each filled in
# a form that asks for the same sequence (0 to 9 three times, then 0 9 5 5 6 5 ...), and that
# sequence starts over here, with a few digits missing from some forms.
_SHEETS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667, 1797)
_TRAIN, _VAL = _SHEETS[8], _SHEETS[10]


@register_data
class Digits(DataSet):
    """``digits``: 1,797 images [1, 8, 8] of the digits 0 to 9, columns ``image`` and ``label``.

    The data is the test part of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin,
    Kaynak 1998), written by people who wrote none of its training part. Splitting it at random
    would put one hand on both sides and flatter every model, so the split is by form: the first
    8 of the 14 forms are for training (1,029 images), the next 2 for validation (258), the last
    4 for the test (510). Who filled in which form is not recorded; forms of one person would be
    neighbours, so at most the two borders can share a hand.
    """

    use: Literal["digits"] = "digits"

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        import torch

        from kdgraph.train.data._split import TensorSplit

        data = library("sklearn.datasets", "digits", "train").load_digits()
        image = torch.from_numpy(data.images).float().unsqueeze(1) / 16  # [1797, 1, 8, 8]
        label = torch.from_numpy(data.target).long()
        train, val, test = (
            TensorSplit({"image": image[rows], "label": label[rows]})
            for rows in (slice(_TRAIN), slice(_TRAIN, _VAL), slice(_VAL, None))
        )
        note = "split by the form a digit was written on: no form is on two sides"
        return Splits(train, val, test, note)

    def known_rows(self) -> int:
        return _TRAIN

    def scaling(self) -> Normalise | None:
        # mean and deviation of the 1,029 training images
        return self.normalise or Normalise(mean=(0.3071,), std=(0.3762,))
