"""Work of frozen models beside that of the student, on a second CUDA stream.

    a = fork([image])        what follows is queued on the side stream, behind what is queued now
    b = teacher(a[0])
    c = leave([b])           what follows is queued on the stream that was left
    d = student(image)
    e = join(c)              what follows waits for the side stream

On another device, on fake tensors and while ``torch.compile`` traces, all three hand their values
on and do nothing else.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def fork(values: Sequence[Tensor]) -> list[Tensor]:
    """Goes to the side stream, which waits until ``values`` are there."""
    device = _device(values)
    if device is not None:
        before, side = torch.cuda.current_stream(device), _side(device)
        side.wait_stream(before)
        _record(values, side)
        _left().append(before)
        torch.cuda.set_stream(side)
    return list(values)


def leave(values: Sequence[Tensor]) -> list[Tensor]:
    """Goes back to the stream that ``fork`` left; ``values`` may not be there yet."""
    if _device(values) is not None and (left := _left()):
        torch.cuda.set_stream(left.pop())
    return list(values)


def join(values: Sequence[Tensor]) -> list[Tensor]:
    """Makes the current stream wait for ``values``, which the side stream computes."""
    device = _device(values)
    if device is not None:
        current = torch.cuda.current_stream(device)
        current.wait_stream(_side(device))
        _record(values, current)
    return list(values)


@contextmanager
def put_back() -> Iterator[None]:
    """Leaves the side stream too where an error ends a step inside of a fork."""
    try:
        yield
    except BaseException:
        if left := _left():
            torch.cuda.set_stream(left[0])
            left.clear()
        raise


_threads = threading.local()


def _left() -> list[torch.cuda.Stream]:
    """The streams that this thread has forked from and not gone back to."""
    if not hasattr(_threads, "left"):
        _threads.left = []
    found: list[torch.cuda.Stream] = _threads.left
    return found


@functools.cache
def _side(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # untyped there


def _record(values: Sequence[Tensor], stream: torch.cuda.Stream) -> None:
    """Keeps memory of ``values`` from being used anew while ``stream`` may still read it."""
    for value in values:
        value.record_stream(stream)


def _device(values: Sequence[Tensor]) -> torch.device | None:
    """The CUDA device whose streams to use, or None."""
    if torch.compiler.is_compiling():
        return None
    real = (v for v in values if v.is_cuda and not isinstance(v, FakeTensor))
    return next((v.device for v in real), None)
