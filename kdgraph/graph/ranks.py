"""Operations of a step that several processes run together, each on its part of the batch.

The processes are those of the default process group; without one, or with one process, each
operation gives what it was given. Every rank is taken to compute the same function of what they
share, and trainers to *average* gradients over ranks, as DDP and FSDP do. So no gradient has to
travel: a rank's own part of it, times the number of ranks, averages to the gradient of the whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from kdgraph.errors import InputError


def world_size() -> int:
    """How many processes share the batch."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def rows_of_ranks(value: Tensor) -> Tensor:
    """How many rows each rank has of a tensor [rows, ...], int64 [ranks] on the CPU.

    Raises:
        InputError: KD704 where the numbers differ under ``torch.compile``.
    """
    rows: Tensor = _rows(value, torch.compiler.is_compiling())
    return rows


def gather_rows(value: Tensor, rows: Tensor, sized: bool = True) -> Tensor:
    """The rows of all ranks in their order: [n, ...] -> [sum of rows, ...].

    Args:
        value: the rows of this rank.
        rows: how many each rank has (``rows_of_ranks``).
        sized: a row is known to have the same shape on every rank; else that is asked.

    Raises:
        InputError: KD704 where rows differ in shape.
    """
    return value if world_size() == 1 else _gather(value, rows, sized)


def own_rows(whole: Tensor, rows: Tensor) -> Tensor:
    """The rows of this rank among those of all: the opposite of ``gather_rows``.

    Its gradient is gathered: what a rank makes of its rows moves, by what they were computed of,
    the rows of others.
    """
    return whole if world_size() == 1 else _own(whole, rows)


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum over all ranks of a tensor of one shape, the same on each."""
    return value if world_size() == 1 else _sum(value)


@torch.library.custom_op("kdgraph::rows_of_ranks", mutates_args=())
def _rows(value: Tensor, even: bool) -> Tensor:
    """With ``even`` the shapes of a compiled step are fixed."""
    own = torch.tensor([value.shape[0]], device=value.device)
    if world_size() == 1:
        return own.cpu()
    every = [torch.empty_like(own) for _ in range(world_size())]
    distributed.all_gather(every, own)
    rows = torch.cat(every).cpu()
    if even and bool((rows != value.shape[0]).any()):
        raise InputError.of(
            "KD704",
            "under torch.compile every rank needs a batch of as many rows, not "
            f"{', '.join(str(int(n)) for n in rows)}",
            help="drop the last batch, or run it without torch.compile",
        )
    return rows


@_rows.register_fake
def _fake_rows(value: Tensor, even: bool) -> Tensor:
    return torch.empty(world_size(), dtype=torch.int64)


@torch.library.custom_op("kdgraph::gather_rows", mutates_args=())
def _gather(value: Tensor, rows: Tensor, sized: bool) -> Tensor:
    if not sized:
        _same_rows(value)
    most, own = int(rows.max()), value.shape[0]
    # as bytes: a backend need not know the type
    flat = value.detach().contiguous().reshape(own, -1).view(torch.uint8)
    padded = flat.new_zeros(most, flat.shape[1])
    padded[:own] = flat
    every = [torch.empty_like(padded) for _ in range(world_size())]
    distributed.all_gather(every, padded)
    whole = torch.cat([part[:n] for part, n in zip(every, rows.tolist(), strict=True)])
    return whole.view(value.dtype).reshape(-1, *value.shape[1:])


@_gather.register_fake
def _fake_gather(value: Tensor, rows: Tensor, sized: bool) -> Tensor:
    return value.new_empty(world_size() * value.shape[0], *value.shape[1:])


def _same_rows(value: Tensor) -> None:
    """Backends would end the process, wait for ever, or mix up what they move."""
    own = torch.tensor(value.shape[1:], device=value.device)
    every = [torch.empty_like(own) for _ in range(world_size())]
    distributed.all_gather(every, own)
    forms = torch.stack(every).tolist()
    if any(form != forms[0] for form in forms):
        raise InputError.of(
            "KD704",
            "rows that are read together have one shape on every rank, not "
            f"{', '.join(str(form) for form in forms)}",
            help="pad to one length on every rank, or, of a loss, give the edge scope: rank",
        )


def _keep_rows(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _own_part(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (rows,) = ctx.saved_tensors
    return own_rows(grad, rows) * world_size(), None, None


_gather.register_autograd(_own_part, setup_context=_keep_rows)


@torch.library.custom_op("kdgraph::own_rows", mutates_args=())
def _own(whole: Tensor, rows: Tensor) -> Tensor:
    rank = distributed.get_rank()
    start = int(rows[:rank].sum())
    return whole[start : start + int(rows[rank])].clone()


@_own.register_fake
def _fake_own(whole: Tensor, rows: Tensor) -> Tensor:
    return whole.new_empty(whole.shape[0] // world_size(), *whole.shape[1:])


def _every_part(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (rows,) = ctx.saved_tensors
    # each rank's own part stands for N times itself
    return gather_rows(grad, rows) / world_size(), None


_own.register_autograd(_every_part, setup_context=_keep_rows)


@torch.library.custom_op("kdgraph::sum_over_ranks", mutates_args=())
def _sum(value: Tensor) -> Tensor:
    whole = value.detach().clone()
    distributed.all_reduce(whole)
    return whole


@_sum.register_fake
def _fake_sum(value: Tensor) -> Tensor:
    return torch.empty_like(value)


def _times_ranks(ctx: Any, grad: Tensor) -> Tensor:
    return grad * world_size()


_sum.register_autograd(_times_ranks)
