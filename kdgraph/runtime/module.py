"""``DistillModule``: the compiled spec as one plain ``nn.Module``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn

from kdgraph.actions._fold import without_actions
from kdgraph.actions._frozen import stands_still
from kdgraph.errors import InputError
from kdgraph.graph.ranks import world_size
from kdgraph.graph.steer import Steer
from kdgraph.graph.streams import put_back
from kdgraph.models.weights import save_weights
from kdgraph.passes._across import AcrossRanks
from kdgraph.runtime.built import Built
from kdgraph.runtime.carry import carry
from kdgraph.runtime.inputs import (
    check_batch,
    check_finite,
    check_values,
    not_by_name,
    other_precision,
)
from kdgraph.runtime.report import Report
from kdgraph.runtime.snapshots import Snapshots
from kdgraph.runtime.sources import Sources
from kdgraph.runtime.stages import Stages
from kdgraph.runtime.window import across_of, counting, window


class StepOutput(NamedTuple):
    """What one step gives.

    Attributes:
        loss: the weighted total, a 0-dim tensor to call ``backward`` on.
        losses: each edge by name, unweighted, 0-dim.
        outputs: tapped values by reference (``student.logits``).
    """

    loss: Tensor
    losses: dict[str, Tensor]
    outputs: dict[str, Tensor]


class DistillModule(nn.Module):
    """A distillation step: batch entries in by name, ``StepOutput`` out.

    Trained models and adapters are registered, so ``parameters()`` are exactly what an
    optimiser should get, and ``state_dict()`` holds them, the state of losses and the progress.
    Frozen models are not registered: they keep their mode and never enter a checkpoint, but
    follow ``to``. Snapshots do the same, but are in the state dict. Nothing is hooked.

    A spec with stages starts in the first of them; ``set_stage`` moves on. Models that some stage
    trains, or that an action changes, are all registered; those that the present stage does not
    train have no gradient and stay in eval mode.

    Where several processes share a batch (``torch.distributed``), edges count the rows of all of
    them, so that gradients, averaged over ranks as DDP and FSDP do, are those of one process.

    Attributes:
        models: the trained models by name; ``student`` is the caller's own module.
        check_values: look for labels out of range and for nan; needs one synchronisation with
            the device a step. Under ``torch.compile`` no input is checked.
        report: the graph, what each pass did, how each model was captured.
        stages: which stage it is in, and what has been done to the networks; None without any.
        networks: every model by name, frozen ones too.
        book: gives what a book holds of rows as batch entries, ``book(ids, view)``, where the step
            was compiled with one.

    In a notebook it shows its picture.
    """

    def __init__(
        self,
        built: Built,
        models: Mapping[str, nn.Module],
        stages: Stages | None = None,
        book: Callable[..., dict[str, Tensor]] | None = None,
        shown: Callable[[Report], dict[str, Any]] | None = None,
        share: Callable[[], Built] | None = None,
    ) -> None:
        super().__init__()
        self.book = book
        self._share = share
        self._shown = shown
        self.stages = stages  # first: in a checkpoint, what the networks are precedes weights
        if stages is not None:
            stages.attach(self._install)
        self.check_values = True
        self.models = nn.ModuleDict({n: m for n, m in models.items() if built.spec.is_moving(n)})
        object.__setattr__(self, "networks", models)  # frozen ones are no part of this module
        self.snapshots = Snapshots(built.spec, models)
        self._install(built)

    def _install(self, built: Built) -> None:
        """Runs these programs from now on."""
        self.spec, self.report = built.spec, built.report
        self.adapters = built.part("adapters")
        self.signals = built.part("signals")
        self.losses = built.part("losses")
        self.steer = cast(Steer, built.parts.get("steer", Steer({})))
        # out of nn.Module's sight: what is frozen is no parameter, no state and has no mode
        object.__setattr__(self, "_programs", dict(built.programs))
        object.__setattr__(self, "_frozen", built.frozen())
        object.__setattr__(self, "_sources", Sources(built.sources))
        object.__setattr__(self, "_across", across_of(built.programs))
        object.__setattr__(self, "_counting", None)

    networks: Mapping[str, nn.Module]
    _across: AcrossRanks | None
    _counting: fx.GraphModule | None
    _programs: dict[bool, fx.GraphModule]
    _frozen: list[nn.Module]
    _sources: Sources

    def forward(self, *unnamed: Tensor, **batch: Tensor) -> StepOutput:
        """One step. Arguments are the spec's batch entries, by name.

        Raises:
            InputError: when the batch is not what the spec says, a tap or edge is nan, or a
                frozen model has changed since it was compiled.
        """
        if torch.compiler.is_compiling():
            if self._across is None and world_size() > 1:
                raise RuntimeError(_SHARED_TOO_LATE)  # one that the compiler can follow
            return self._run(batch)
        if unnamed:
            raise not_by_name(self.spec)
        check_batch(self.spec, batch, self._place())
        self._sources.check(self.spec)
        if self.check_values:
            check_values(self.spec, batch)
        if world_size() > 1:
            self.share()
        try:
            with put_back():
                step = self._run(batch)
        except RuntimeError as error:
            if (found := other_precision(self.spec, batch, self._dtype(), error)) is not None:
                raise found from error
            raise
        if self.check_values:
            check_finite(self.spec, step.loss, step.losses, step.outputs)
        return step

    def _place(self) -> torch.device | None:
        """Where it is; of shards, which may wait elsewhere than they are used, that is not said."""
        first = next(self.parameters(), None)
        return None if first is None or hasattr(first, "full_tensor") else first.device

    def _dtype(self) -> torch.dtype | None:
        """What it computes in, unless told otherwise."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), None)

    def _run(self, batch: Mapping[str, Tensor]) -> StepOutput:
        out = self._programs[self._mode()](**batch)
        return StepOutput(out["loss"], out["losses"], out["outputs"])

    def _mode(self) -> bool:
        """Which program holds: that of the mode in which the trained models are.

        Raises:
            InputError: KD708 where a graph that holds in one mode only meets modules in both.
        """
        if torch.compiler.is_compiling():
            return self.training
        for name, model in self.models.items():
            if self.spec.is_trainable(name) and self.report.captures[name].mode_dependent:
                odd = [
                    n
                    for n, m in model.named_modules()
                    if m.training != model.training and not stands_still(m)
                ]
                if odd:
                    raise InputError.of(
                        "KD708",
                        f"module {odd[0]!r} of {name!r} is in another mode than the model, whose "
                        f"captured graph ({self.report.captures[name].rung}) has one mode",
                        help="call train() or eval() on the whole model",
                    )
                return model.training
        return self.training

    @property
    def program(self) -> fx.GraphModule:
        """What runs in train mode."""
        return self._programs[True]

    @property
    def student(self) -> nn.Module:
        """The model named ``student``, or the only trained one."""
        if "student" in self.models:
            return self.models["student"]
        if len(self.models) == 1:
            return next(iter(self.models.values()))
        raise AttributeError(f"several models are trained: {', '.join(self.models)}; use .models")

    def set_progress(self, *, epoch: float | None = None, iteration: float | None = None) -> None:
        """Tells schedules where training is, counted from 0; epochs may be fractional."""
        self.steer.set(epoch, iteration)

    def set_stage(self, name: str) -> list[str]:
        """Moves to a stage, ``STAGE`` or ``STAGE.PHASE``, with the actions in between.

        Those are the ``after`` actions of the stage that is left and the ``before`` actions of the
        one that is entered; between phases of a stage there are none. In another stage progress
        starts again at 0.
        An optimiser is to be built anew for a new stage, and only there.

        Returns:
            What the actions said that they changed.

        Raises:
            KDGraphError: KD202 for a stage that there is not; KD751 for an action that cannot be
                done to these networks.
        """
        stages = self._course()
        before = len(stages.log)
        old, epoch, iteration = stages.stage, self.steer.epoch, self.steer.iteration
        stages.move(name)
        self._install(stages.built())
        self.train(self.training)
        self.steer.set(*((epoch, iteration) if stages.stage == old else (0.0, 0.0)))
        return [line for done in stages.log[before:] for line in done.lines]

    def after_epoch(self, epochs: int, *, best: bool = False) -> list[str]:
        """Does the ``during`` actions of the present stage that are due.

        Hand the optimiser to ``carry`` afterwards, where one of them is ``prune``, say.

        Args:
            epochs: of this stage that are done.
            best: whether the monitored metric was never better in this stage.

        Returns:
            What they said that they changed.
        """
        stages = self._course()
        before = len(stages.log)
        if stages.after_epoch(epochs, best):
            self._rerun()
        return [line for done in stages.log[before:] for line in done.lines]

    def finish(self) -> list[str]:
        """Does the ``after`` actions of the present stage: the course is at its end."""
        stages = self._course()
        before = len(stages.log)
        stages.finish()
        self._rerun()
        return [line for done in stages.log[before:] for line in done.lines]

    def _rerun(self) -> None:
        """Goes on in the present stage with the networks as they are now."""
        epoch, iteration = self.steer.epoch, self.steer.iteration
        self._install(self._course().built())
        self.train(self.training)
        self.steer.set(epoch, iteration)

    def share(self) -> None:
        """Gets ready to share a batch with other processes, or with other batches of a window.

        A step does so by itself, once it runs in a process group or has a window. Under
        ``torch.compile`` it has to be done before: compile the spec, or call this, in the group.
        """
        if self._across is not None or self._share is None:
            return
        before, epoch, iteration = self.steer, self.steer.epoch, self.steer.iteration
        self._install(self._share())
        for new, old in zip(self.steer.buffers(), before.buffers(), strict=True):
            new.data = new.to(old.device)
        self.train(self.training)
        self.steer.set(epoch, iteration)

    def window(
        self, batches: Iterable[Mapping[str, Tensor]], *, averaged: bool | int = False
    ) -> AbstractContextManager[None]:
        """Weighs batches over which gradients are accumulated as if they were one batch.

        While it is open, the loss of each is its share of the loss of all: their sum is the mean
        over all rows, however many count in each. What compares rows with each other still sees
        one batch at a time.

        Args:
            batches: those of one step of the optimiser, each of which is then run once.
            averaged: the trainer divides each loss by their number. One that divides by the same
                number in a shorter window too, as Lightning and Accelerate do at the end of an
                epoch, is made up for by that number.

        Raises:
            InputError: KD731 where a mask comes from a trained model; as ``forward`` for a batch
                that is not what the spec says; KD704 for no batch at all.
        """
        self.share()
        assert self._across is not None
        if self._counting is None:
            # no part of this module either: it may hold a frozen model
            object.__setattr__(self, "_counting", counting(self.report.graph))
        assert self._counting is not None
        if isinstance(batches, Mapping):
            raise InputError.of("KD702", "a window takes a list of batches, not one of them")
        every = [*batches]
        if not every:
            raise InputError.of("KD704", "a window needs a batch", span=self.spec.span("batch"))
        for batch in every:
            check_batch(self.spec, batch, self._place())
        return window(self._across, self._counting, every, averaged)

    def carry(self, optimizer: torch.optim.Optimizer) -> None:
        """Lets an optimiser follow what the actions done last did to parameters, with moments.

        Of several optimisers each is carried. To be called after ``after_epoch``.
        """
        stages = self._course()
        carry(optimizer, stages.moved, stages.fresh, stages.nets)

    def _course(self) -> Stages:
        if self.stages is not None:
            return self.stages
        raise InputError.of("KD702", "the spec has no stages", span=self.spec.span())

    def train(self, mode: bool = True) -> DistillModule:
        """Leaves in eval mode what the present stage does not train."""
        super().train(mode)
        for name, model in self.models.items():
            if not self.spec.is_trainable(name):
                model.eval()
        return self

    def snapshot(self, name: str | None = None) -> None:
        """Copies the present weights of trained models into their snapshots; all, or one by name.

        Raises:
            InputError: KD702 for a name that is no snapshot of the spec.
        """
        self.snapshots.take(dict(self.models.items()), name)

    def save_student(self, path: str | Path) -> None:
        """Writes the student's weights as safetensors; they load into the plain model.

        What actions put into the student is folded into the weights.
        """
        save_weights(without_actions(self.student), Path(path))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DistillModule:
        """Moves and casts the frozen models along."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # untyped there
        for module in self._frozen:
            module._apply(fn)  # type: ignore[no-untyped-call]  # untyped there
        return self

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """Its picture, for notebooks."""
        text = {"text/plain": repr(self)}
        return text if self._shown is None else self._shown(self.report) | text

    def _repr_html_(self) -> str | None:
        """The same as HTML alone."""
        return self._repr_mimebundle_().get("text/html")

    def extra_repr(self) -> str:
        """What ``print(step)`` says beside the trained modules."""
        frozen = [n for n in self.spec.networks if not self.spec.is_trainable(n)]
        return f"{self.spec.name}, frozen: {', '.join(frozen) or 'none'}"


_SHARED_TOO_LATE = (
    "KD732: torch.compile met a step that was compiled for one process in a group of several: "
    "compile the spec once the group is there, or call step.share() before torch.compile"
)
