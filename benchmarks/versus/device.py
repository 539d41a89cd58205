"""Times, floors and memory of single calls on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from versus.kernel_case import KernelCase, Sides

FEWEST = 50  # calls that a median is taken of
CACHE = 200_000_000  # bytes of inputs that no cache keeps
BRIEF = 50_000_000  # bytes that take a GPU less time than its launches take the processor
_SETS = 16


class Ceilings(NamedTuple):
    """What the device does at best: bytes per second of a copy, bf16 operations of a product."""

    bytes: float
    flops: float

    def floor_ms(self, case: KernelCase) -> float:
        """The larger of both times."""
        return 1e3 * max(case.floor_bytes / self.bytes, case.floor_flops / self.flops)


def ceilings(device: torch.device) -> Ceilings:
    """Measured; a large copy counts what it reads and what it writes."""
    size, width = (2**30, 8192) if device.type == "cuda" else (2**20, 64)
    source = torch.randn(size // 4, device=device)
    copy = torch.empty_like(source)
    a, b = (torch.randn(width, width, device=device, dtype=torch.bfloat16) for _ in range(2))
    copying = median([lambda: copy.copy_(source)], device, number=20)
    product = median([lambda: a @ b], device, number=20)
    return Ceilings(2e3 * size / copying, 2e3 * width**3 / product)


def grads(case: KernelCase, loss: Callable[..., Tensor], sides: Sides) -> list[Tensor]:
    """The value and the gradients of what is trained."""
    value = loss(**sides)
    return [value, *torch.autograd.grad(value, [sides[name] for name in case.trained])]


def draws(case: KernelCase, device: torch.device, *, few: bool = False) -> list[Sides]:
    """Inputs that require gradients: one set, or so many that no cache holds them."""
    made = [leaves(case, case.draw(device, few))]
    size = sum(x.numel() * x.element_size() for x in made[0].values())
    while not few and len(made) < min(_SETS, 1 + CACHE // size):
        made.append(leaves(case, case.draw(device, few)))
    return made


def leaves(case: KernelCase, sides: Sides) -> Sides:
    """With gradients for what is trained."""
    return {k: x.detach().requires_grad_(k in case.trained) for k, x in sides.items()}


def timed(
    case: KernelCase, loss: Callable[..., Tensor], sets: Sequence[Sides]
) -> tuple[float, bool]:
    """Milliseconds of value and gradients, and whether they are those of a replayed graph.

    What takes the device less time than starting it takes the processor is recorded and replayed,
    if it can be.
    """
    device = next(iter(sets[0].values())).device
    calls: list[Callable[[], object]] = [partial(grads, case, loss, sides) for sides in sets]
    if device.type != "cuda":
        return median(calls, device, number=2), False
    replays = None
    if case.floor_bytes < BRIEF:
        with suppress(RuntimeError):
            replays = [recorded(call, device) for call in calls]
    return median(replays or calls, device, number=FEWEST), replays is not None


def recorded(call: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """The call as a CUDA graph."""
    here, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        for _ in range(3):  # nothing may be compiled while it is recorded
            call()
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def median(calls: Sequence[Callable[[], object]], device: torch.device, *, number: int) -> float:
    """Milliseconds of a call, taken in turn."""
    for i in range(min(number, 5)):  # compiles, fills the allocator's pool
        calls[i % len(calls)]()
    if device.type != "cuda":
        found = []
        for i in range(number):
            start = time.perf_counter()
            calls[i % len(calls)]()
            found.append(1e3 * (time.perf_counter() - start))
        return statistics.median(found)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(number)]
    torch.cuda.synchronize(device)
    for i, (start, end) in enumerate(events):
        start.record()
        calls[i % len(calls)]()
        end.record()
    torch.cuda.synchronize(device)
    return statistics.median(start.elapsed_time(end) for start, end in events)


def peak_mb(case: KernelCase, loss: Callable[..., Tensor], sides: Sides) -> float | None:
    """Megabytes (1e6 bytes) held at most beyond the inputs; None on a CPU."""
    device = next(iter(sides.values())).device
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    grads(case, loss, sides)
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6
