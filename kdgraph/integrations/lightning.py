"""``Distillation``: a compiled step as a ``LightningModule``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from kdgraph.runtime.inputs import not_by_name
from kdgraph.runtime.module import DistillModule


class Distillation(LightningModule):
    """Trains a compiled step; a subclass brings its optimisers and, if it likes, its data.

    It moves the schedules before each step of the optimiser, calls the step inside the wrapper of
    DDP, and logs the total as ``loss`` and each edge as ``losses/NAME``. Values of edges are those
    of the whole batch on each rank already, so nothing is reduced.

    Lightning divides the losses of ``accumulate_grad_batches`` batches by their number and
    fetches them one after the other. That is the loss of one large batch where each has the same
    number of rows that count; ``docs/embedding.md`` says what to do where not.

    Attributes:
        distill: the step. ``distill.student`` is the caller's own module, trained in place.
    """

    def __init__(self, step: DistillModule) -> None:
        super().__init__()
        self.distill = step

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Moves the schedules, but not within a step of the optimiser."""
        if batch_idx % self.trainer.accumulate_grad_batches:
            return
        epoch = self.current_epoch + batch_idx / self.trainer.num_training_batches
        self.distill.set_progress(epoch=epoch, iteration=self.global_step)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """The total loss of a batch, whose entries have the names of the spec.

        Raises:
            InputError: KD702 for a batch without names; as the step for one that lacks an entry.
        """
        spec = self.distill.spec
        if not isinstance(batch, Mapping):
            raise not_by_name(spec)
        whole = spec.batch.keys() <= batch.keys()  # else the step says what there is
        out = self.distill(**({name: batch[name] for name in spec.batch} if whole else batch))
        self.log_dict({f"losses/{name}": value for name, value in out.losses.items()})
        self.log("loss", out.loss, prog_bar=True)
        loss: Tensor = out.loss
        return loss
