"""Two sides of one comparison: are they equal, how long does a step take, what does it hold."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

TOLERANCE = 1e-4  # of the loss, and of the norm of each gradient
_SMALL = 1e-3  # a gradient below this part of all of them is compared with that instead
_SAMPLE = 0.1  # seconds that one sample lasts at least: shorter steps are run several times
_RESAMPLES = 2000


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        loss: the forward half of a step.
        trained: the tensors that get a gradient, by names that both sides share.
    """

    loss: Callable[[], Tensor]
    trained: Mapping[str, Tensor]


class Pair(NamedTuple):
    """kdgraph and torchdistill on equal models, weights and batches."""

    ours: Side
    theirs: Side


class Difference(NamedTuple):
    """Relative difference of the loss, and the largest one of a trained tensor's gradient."""

    loss: float
    gradient: float


class Times(NamedTuple):
    """Milliseconds of a step per sample, one of each side in turn."""

    ours: list[float]
    theirs: list[float]

    def ratio(self) -> tuple[float, float, float]:
        """Theirs over ours: the median of the pairs, and the 95 percent interval of it."""
        ratios = [b / a for a, b in zip(self.ours, self.theirs, strict=True)]
        draw = random.Random(0)
        medians = sorted(
            statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES)
        )
        low, high = medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES)]
        return statistics.median(ratios), low, high


def step(side: Side, device: torch.device, *, autocast: bool = False) -> Tensor:
    """Forward and backward from no gradients; the loss."""
    for tensor in side.trained.values():
        tensor.grad = None
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        loss = side.loss()
    loss.backward()  # type: ignore[no-untyped-call]  # untyped there
    return loss.detach()


def compare(pair: Pair, device: torch.device) -> Difference:
    """Runs a step of both in float32 and compares them.

    Raises:
        ValueError: where the losses or a gradient differ by more than ``TOLERANCE``, or where
            there is no gradient at all.
    """
    ours, theirs = float(step(pair.ours, device)), float(step(pair.theirs, device))
    if pair.ours.trained.keys() != pair.theirs.trained.keys():
        odd = pair.ours.trained.keys() ^ pair.theirs.trained.keys()
        raise ValueError(f"the sides train different tensors: {sorted(odd)}")
    wholes = [_norm(t.grad) for t in pair.theirs.trained.values()]
    floor = _SMALL * math.hypot(*wholes)
    if not floor > 0:
        raise ValueError("nothing is trained")
    worst, where = 0.0, ""
    for (name, their), whole in zip(pair.theirs.trained.items(), wholes, strict=True):
        our = pair.ours.trained[name].grad
        gap = our if their.grad is None else their.grad if our is None else our - their.grad
        error = _norm(gap) / max(whole, floor)
        if not error <= worst:
            worst, where = error, name
    difference = Difference(abs(ours - theirs) / abs(theirs), worst)
    if not difference.loss <= TOLERANCE:
        raise ValueError(f"the losses differ: {ours} and {theirs}")
    if not difference.gradient <= TOLERANCE:
        raise ValueError(f"the gradients of {where!r} differ by {worst:.1e}")
    return difference


def _norm(tensor: Tensor | None) -> float:
    return 0.0 if tensor is None else float(tensor.double().norm())


def take_turns(
    pair: Pair, device: torch.device, *, rounds: int, seconds: float, autocast: bool
) -> Times:
    """Times both in turn, ours first in every other round.

    Stops after ``rounds``, or after ``seconds`` where at least five rounds are done.
    """
    counts = {
        name: max(1, math.ceil(_SAMPLE / _sample(side, device, 2, autocast)))
        for name, side in pair._asdict().items()
    }
    found: dict[str, list[float]] = {"ours": [], "theirs": []}
    gc.collect()
    start = time.perf_counter()
    for i in range(rounds):
        if i >= 5 and time.perf_counter() - start > seconds:
            break
        for name in ("ours", "theirs") if i % 2 == 0 else ("theirs", "ours"):
            sample = _sample(getattr(pair, name), device, counts[name], autocast)
            found[name].append(1e3 * sample)
    return Times(**found)


def _sample(side: Side, device: torch.device, count: int, autocast: bool) -> float:
    """Seconds of a step, the mean of ``count``."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(count):
        step(side, device, autocast=autocast)
    _wait(device)
    return (time.perf_counter() - start) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(side: Side, device: torch.device, *, autocast: bool) -> float:
    """Megabytes (1e6 bytes) that a step holds at most, beyond what is held before it."""
    for tensor in side.trained.values():
        tensor.grad = None
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step(side, device, autocast=autocast)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        step(side, device, autocast=autocast)
    results = profile.profiler.kineto_results
    changes = [e for e in results.events() if e.name() == "[memory]"]
    held = peak = 0
    for change in sorted(changes, key=lambda e: e.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    return peak / 1e6
