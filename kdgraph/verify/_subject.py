"""What is verified: a spec on one machine, with fixed weights and batches."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kdgraph.capture.liveness import Watch
from kdgraph.capture.record import one_line
from kdgraph.compiler import compile
from kdgraph.networks import build_networks
from kdgraph.runtime.module import DistillModule
from kdgraph.spec.language import Spec
from kdgraph.verify._calm import calm
from kdgraph.verify._compare import SEED

ROUNDED = {True: 1e-9, False: 1e-3}
"""The largest relative difference that is rounding, in float64 and in float32: docs/verify.md."""


@dataclass(frozen=True)
class Subject:
    """A spec, ready to be compiled again and again into equal steps.

    Attributes:
        spec: as written.
        batches: on the CPU; the first is what most checks run on.
        networks: the models as the spec says, before anything is trained; never changed.
        trust: Python modules that the spec may use.
        device: where steps run.
        double: in float64, which tells a mistake from rounding.
        ranks: processes to compare with one.
        micro: small batches to compare with a large one.
        tolerance: in the place of those of ``ROUNDED``.
        moving: what of the trained models does not treat a row alike in every batch, once it is
            known (``what_moves``).
    """

    spec: Spec
    batches: Sequence[Mapping[str, Tensor]]
    networks: Mapping[str, nn.Module]
    trust: Collection[str]
    device: torch.device
    double: bool = True
    ranks: int = 2
    micro: int = 2
    tolerance: float | None = None
    moving: Sequence[str] = ()

    @property
    def rounding(self) -> float:
        """The largest relative difference that is allowed where numbers are rounded."""
        return ROUNDED[self.double] if self.tolerance is None else self.tolerance

    def single(self) -> Subject:
        """The same in float32, as it is trained."""
        return replace(self, double=False)

    def step(self, spec: Spec | None = None, *, still: bool = False, **how: Any) -> DistillModule:
        """A new step, equal to any other of the same arguments.

        Args:
            spec: in the place of the subject's own.
            still: in eval mode, if ``moving`` says that rows would not be computed alike.
            how: further arguments of ``kdgraph.compile``.
        """
        spec = spec or self.spec
        nets = copy.deepcopy({n: net for n, net in self.networks.items() if n in spec.models})
        torch.manual_seed(SEED)  # for adapters, and what actions draw
        if self.double:
            spec, how = in_double(spec), {**how, "without": [*how.get("without", ()), *_ROUNDING]}
            nets = {name: net.double() for name, net in nets.items()}
        step = compile(spec, models=nets, trust=self.trust, **how).to(self.device)
        step = step.double() if self.double else step
        return step.train(not (still and self.moving))

    def batch(self, number: int = 0) -> dict[str, Tensor]:
        """One of the batches, as steps take it."""
        return {
            name: self.cast(value).to(self.device) for name, value in self.batches[number].items()
        }

    def cast(self, value: Tensor) -> Tensor:
        """A number of the batch in the precision of the step."""
        return value.double() if self.double and value.dtype == torch.float32 else value

    def calm(self) -> tuple[Spec, list[str]]:
        """The spec in which each row is computed alike in any batch, and what that took.

        Together with ``step(still=True)``.
        """
        spec, notes = calm(self.spec)
        told = [f"in eval mode: {' and '.join(self.moving)}"] if self.moving else []
        return spec, [*notes, *told]


def what_moves(subject: Subject) -> list[str]:
    """What of the trained models does not treat a row alike in every batch, in train mode."""
    step, batch = subject.step(calm(subject.spec)[0]), subject.batch()
    with Watch() as watch:
        step(**batch)
    found = [("batch norms at their stored statistics", watch.updates),
             ("dropout off", watch.draws)]  # fmt: skip
    return [note for note, on in found if on]


_ROUNDING = ("precision",)  # a pass that is asked to round


def networks(spec: Spec, trust: Collection[str]) -> dict[str, nn.Module]:
    """The networks as their sources build them, each time the same; compiling does the rest."""
    asked = {"lora": None, "dropout": False, "batch_statistics": False}
    models = {name: model.model_copy(update=asked) for name, model in spec.models.items()}
    torch.manual_seed(SEED)
    built = build_networks(spec.model_copy(update={"models": models}), {}, trust)
    return {n: net for n, net in built.items() if spec.models[n].snapshot_of is None}


def in_double(spec: Spec) -> Spec:
    """The spec of batches in float64."""
    batch = {
        name: entry.model_copy(update={"dtype": "float64"}) if entry.dtype == "float32" else entry
        for name, entry in spec.batch.items()
    }
    return spec.model_copy(update={"batch": batch})


def why_not_double(subject: Subject) -> str | None:
    """Why float64 is not what a step computes in from end to end; None where it is."""
    try:
        step, batch = subject.step(calm(subject.spec)[0]), subject.batch()
        with _Narrow() as narrow:
            step(**batch)
    except Exception as error:  # models' own code may take no float64
        return f"a step in float64 fails: {one_line(error)}"
    if narrow.found is not None:
        return f"{narrow.found} gives float32 within a step in float64"
    return None


class _Narrow(Watch):  # type: ignore[no-untyped-call]  # untyped there
    """Notes the first operator that makes less of float64."""

    found: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        read = {v.dtype for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)}
        made = [v for v in tree_leaves(out) if isinstance(v, Tensor) and v.is_floating_point()]
        narrow = any(v.dtype != torch.float64 and v.numel() > 1 for v in made)
        if torch.float64 in read and narrow and self.found is None:
            self.found = str(func)
        return out


@contextmanager
def exact() -> Iterator[None]:
    """The same bits each time, and no TF32: what is compared is not how a GPU is set up."""
    with (
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        _flag(torch.backends.cuda.matmul, "allow_tf32", False),
        torch.random.fork_rng(devices=[]),
    ):
        before = torch.are_deterministic_algorithms_enabled()
        warned = torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warned)


@contextmanager
def _flag(owner: Any, name: str, value: bool) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
