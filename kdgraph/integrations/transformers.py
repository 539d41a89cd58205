"""``Distillation``: the ``Trainer`` of transformers, for a compiled step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from kdgraph.capture.taps import parse_tap
from kdgraph.errors import InputError
from kdgraph.runtime.module import DistillModule, StepOutput
from kdgraph.spec.language import Spec


class Distillation(Trainer):
    """A ``Trainer`` whose model is a compiled step.

    It stands in for ``Trainer``, or before a trainer derived from it: ``class Mine(Distillation,
    Seq2SeqTrainer)``. It moves the schedules, logs the mean of each edge as ``losses/NAME``,
    drops columns that the spec does not name, lets evaluation see what the student says alone,
    and writes the plain student in ``save_model``. Checkpoints hold the whole step, so that
    training can be taken up from them.

    Over ``gradient_accumulation_steps`` batches the loss is that of one large batch, however
    many rows count in each (``DistillModule.window``).

    Raises:
        InputError: KD734 where the model is no compiled step, one process drives several GPUs,
            activations are to be checkpointed, which the student has to know before it is
            compiled, or another loss is given.
    """

    model: DistillModule

    def __init__(self, *args: Any, **keys: Any) -> None:
        settings = keys.get("args", args[1] if len(args) > 1 else None)
        others = {
            "label_smoothing_factor": getattr(settings, "label_smoothing_factor", None),
            "compute_loss_func": keys.get("compute_loss_func"),
        }
        for name in (name for name, value in others.items() if value):
            message = f"`{name}` would not be looked at: the losses are those of the spec"
            raise InputError.of("KD734", message, help="write it as an edge")
        super().__init__(*args, **keys)
        given: Any = self.model
        if not isinstance(given, DistillModule):
            kind = type(given).__name__
            raise InputError.of("KD734", f"the model must be a compiled step, not {kind}")
        if self.args.n_gpu > 1:
            raise InputError.of(
                "KD734",
                f"one process drives {self.args.n_gpu} GPUs, and steps do not run in DataParallel",
                help="start a process for each: torchrun --nproc-per-node N",
            )
        if self.args.gradient_checkpointing:
            raise InputError.of(
                "KD734",
                "`gradient_checkpointing` comes too late for a step",
                help="call `gradient_checkpointing_enable()` of the student before it is compiled, "
                "with `capture: ports` so that its blocks are called",
            )
        spec = given.spec
        # forward takes **batch, by which Trainer would take it for a model that divides its loss
        # by num_items_in_batch, and find neither columns nor labels
        self.model_accepts_loss_kwargs = False
        self._signature_columns: Any = list(spec.batch)
        if self.args.label_names is None:
            self.label_names = _labels(spec)
        self.can_return_loss = not self.label_names
        self._window, self._to_come = ExitStack(), 0
        self._edges: dict[str, Tensor] = {}
        self._seen = 0

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, *device: Any
    ) -> tuple[list[Any], Any]:
        """The batches of one step of the optimiser, which are weighed as one."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, *device)
        self._window.close()
        if len(batches) > 1:
            batches = [self._prepare_inputs(batch) for batch in batches]
            self._window.enter_context(self.model.window(batches, averaged=True))
        self._to_come = len(batches)
        return batches, items

    def training_step(self, *args: Any, **keys: Any) -> Tensor:
        """One batch forward and backward; the last of a window closes it."""
        loss: Tensor = super().training_step(*args, **keys)
        self._to_come -= 1
        if not self._to_come:
            self._window.close()
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The total loss, and with ``return_outputs`` what the student says."""
        if model.training:
            self.model.set_progress(epoch=self.state.epoch or 0.0, iteration=self.state.global_step)
        out: StepOutput = model(**inputs)
        if model.training:
            for name, value in out.losses.items():
                self._edges[name] = self._edges.get(name, 0) + value.detach()
            self._seen += 1
        return (out.loss, {"loss": out.loss, **self._said(out)}) if return_outputs else out.loss

    def _said(self, out: StepOutput) -> dict[str, Tensor]:
        """The values at taps of the student's own output."""
        (name,) = [n for n, model in self.model.models.items() if model is self.model.student]
        taps = self.model.spec.models[name].taps
        ends = [tap for tap, path in taps.items() if _of_output(path)]
        return {tap: out.outputs[f"{name}.{tap}"] for tap in ends if f"{name}.{tap}" in out.outputs}

    def log(self, logs: dict[str, float], *args: Any, **keys: Any) -> None:
        """Adds the mean of each edge since the last time to the logs of training."""
        if "loss" in logs and self._seen:
            means = {f"losses/{n}": value.item() / self._seen for n, value in self._edges.items()}
            logs = {**logs, **means}
            self._edges, self._seen = {}, 0
        super().log(logs, *args, **keys)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the plain student, by its own ``save_pretrained`` where it has one."""
        if _internal_call:  # a checkpoint
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            student: Any = self.model.student
            if hasattr(student, "save_pretrained"):
                student.save_pretrained(folder)
            else:
                self.model.save_student(folder / "model.safetensors")
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Tied parameters as copies: safetensors refuses to write one memory twice."""
        state = dict(self.model.state_dict() if state_dict is None else state_dict)
        memory: set[int] = set()
        for name, value in state.items():
            place = value.untyped_storage().data_ptr()
            state[name] = value.clone() if place in memory else value
            memory.add(place)
        super()._save(output_dir, state)


def _labels(spec: Spec) -> list[str]:
    """The batch entries with classes that edges or signals read."""
    read = {
        ref
        for entry in (*spec.losses.values(), *spec.signals.values())
        for _, ref in entry.references()
    }
    return [n for n, entry in spec.batch.items() if entry.classes is not None and n in read]


def _of_output(path: str) -> bool:
    tap = parse_tap(path)
    return not tap.path and tap.side == "out"
