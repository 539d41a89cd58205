"""The batches of one step of the optimiser, known before the first of them is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice

from torch import Tensor
from torch.utils.data import DataLoader

from kdgraph.errors import InputError
from kdgraph.runtime.module import DistillModule

Batch = dict[str, Tensor]


class Ahead:
    """A loader that reads all batches of a step before it gives the first.

    Args:
        loader: of what is left of an epoch.
        size: batches of a step; the last step of an epoch may have fewer.
    """

    def __init__(self, loader: DataLoader[Batch], size: int) -> None:
        self._loader, self._size = loader, size
        self._steps: deque[list[Batch]] = deque()

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        self._steps.clear()
        batches = iter(self._loader)
        while step := list(islice(batches, self._size)):
            self._steps.append(step)
            yield from step

    def next_step(self) -> list[Batch]:
        """The batches of the next step; to be asked once for each, in their order."""
        return self._steps.popleft()


class Weigher:
    """Lets batches over which gradients accumulate count as if they were one.

    Where rows are counted by what a model says that is trained, it is not known beforehand how many
    there are, and each batch counts alike.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._factor = 1.0

    def begin(self, step: DistillModule, batches: list[Batch], size: int) -> None:
        """Called before the first batch of a step of the optimiser.

        Args:
            step: the compiled spec.
            batches: those of this step, on its device.
            size: by which the trainer divides the loss of each.
        """
        self.end()
        try:
            self._open.enter_context(step.window(batches, averaged=True))
        except InputError as error:
            if error.diagnostics[0].code != "KD731":
                raise
        self._factor = size / len(batches)

    def end(self) -> None:
        """Called when the optimiser has moved."""
        self._open.close()
        self._factor = 1.0

    def __call__(self, loss: Tensor) -> Tensor:
        """The loss of a batch, for a trainer that divides by more batches than there are."""
        return loss if self._factor == 1.0 else loss * self._factor
