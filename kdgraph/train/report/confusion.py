"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from kdgraph.train.score import Score

MOST = 1000  # classes: more make neither a picture nor a matrix that is quickly counted


class Confusion(nn.Module):
    """Counts pairs of true and predicted class; ignored places do not count.

    Attributes:
        declined: why nothing is counted, or None.
    """

    def __init__(self, score: Score) -> None:
        super().__init__()
        self._score = score
        self.declined: str | None = None
        self.counts: MulticlassConfusionMatrix | None = None
        if score.classes is None:
            self.declined = "no classes are predicted"
        elif score.decoder is not None:
            self.declined = "texts are compared, not classes"
        elif score.classes > MOST:
            self.declined = f"{score.classes:,} classes are too many for a picture"
        else:
            self.counts = MulticlassConfusionMatrix(score.classes, validate_args=False)

    def add(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Counts a batch in."""
        if self.counts is None:
            return
        if batch[self._score.target].shape != prediction[:, 0].shape:
            self.declined, self.counts = "labels are no single classes", None
            return
        self._score.update(self.counts, prediction, batch)

    def matrix(self) -> Tensor | None:
        """Counts [true, predicted], or None."""
        if self.counts is None:
            return None
        found: Tensor = self.counts.compute().cpu()
        return found

    def as_dict(self, part: str) -> dict[str, Any]:
        """The cells that are not zero, as [true, predicted, count].

        Args:
            part: which part of the data it is of.
        """
        counts = self.matrix()
        if counts is None:
            return {"part": part, "declined": self.declined}
        at = counts.nonzero()
        cells = torch.cat([at, counts[at[:, 0], at[:, 1]].unsqueeze(1)], 1).tolist()
        return {"part": part, "classes": len(counts), "cells": cells}


def picture(counts: Tensor) -> Tensor:
    """Counts [K, K] as a picture [3, S, S], uint8: a row is a true class, darker is more.

    Shades are shares of a row, so that rare classes are seen as well.
    """
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    size = max(1, 480 // len(counts))
    shade = shares.repeat_interleave(size, 0).repeat_interleave(size, 1).unsqueeze(0)
    ends = torch.tensor([[255.0, 255.0, 255.0], [8.0, 48.0, 107.0]]).T.reshape(3, 2, 1, 1)
    return (ends[:, 0] + (ends[:, 1] - ends[:, 0]) * shade).round().to(torch.uint8)
