"""What the kernels are timed on: shapes of classification, language models and feature maps."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

import torch
from torch import Tensor

from kdgraph.kernels.base import KERNELS
from versus import liger, plain
from versus.kernel_case import KernelCase, Sides, by_kernel, entry

FLOAT, BF16 = torch.float32, torch.bfloat16
EXACT = {FLOAT: (1e-5, 1e-5), BF16: (1e-5, 8e-3)}
# On matrix units what is multiplied is rounded first, cosines too, and a gap of a few tenths
# between student and teacher makes more of it.
PRODUCTS = {BF16: (2e-2, 2e-2)}
FEW = 1024  # rows that are compared with float64: so many that programs share them out as all


def cases(*, tiny: bool = False) -> list[KernelCase]:
    """All of them, in the order of their weight; ``tiny`` ones prove that everything runs."""
    logits = partial(_logits, tiny=tiny)
    maps = partial(_maps, tiny=tiny)
    found = [
        logits("soft_target", 8192, 32000, tau=2, goal=0.52),
        logits("soft_target", 8192, 128256, tau=2, goal=2.9),
        logits("soft_target", 8192, 128256, goal=2.9),
        logits("reverse_kl", 8192, 32000, tau=2, goal=0.52),
        logits("jensen_shannon", 8192, 128256, goal=4.2),
        logits("soft_target", 8192, 128256, tau=2, dtype=FLOAT, goal=6.0),
        logits("soft_target", 1024, 1000, tau=4, goal=0.012),
        logits("soft_target", 256, 1000, tau=4, dtype=FLOAT),
        logits("total_variation", 8192, 32000),
        _sparse(8192, 128256, 64, goal=1.8, tiny=tiny),
        _linear(8192, 32000, 2048, goal=7.5, tiny=tiny),
        _linear(8192, 128256, 4096, goal=56, tiny=tiny),
        maps("channel_wise", (64, 256, 56, 56), tau=4, goal=0.095),
        maps("channel_wise", (64, 256, 56, 56), tau=4, goal=0.114, channels_last=True),
        maps("channel_wise", (16, 19, 512, 1024), tau=4),
        maps("channel_correlation", (64, 256, 56, 56)),
        maps("channel_correlation", (16, 2048, 64, 128)),
        maps("channel_correlation", (128, 512, 7, 7)),
        maps("spatial_correlation", (64, 256, 56, 56)),
        maps("spatial_correlation", (16, 2048, 64, 128), goal=9.0),
        maps("csc", (64, 512, 28, 28)),
        _relation(256, 2048, tiny=tiny),
        _relation(64, 512, tiny=tiny),
    ]
    found = [c for c in found if c.kernel in KERNELS.names() or c.kernel in _OPERATORS]
    if not tiny:
        return found
    same = {c.title: replace(c, goal_ms=None) for c in found}  # as many of them are
    return list(same.values())


_OPERATORS = ("linear_soft_target", "sparse_rows")
_LIGER = {
    "soft_target": {"Liger": liger.forward_kl},
    "reverse_kl": {"Liger": liger.reverse_kl},
    "jensen_shannon": {"Liger": liger.jensen_shannon},
    "total_variation": {"Liger": liger.total_variation},
}
_PLAIN = {"soft_target": plain.forward_kl}


def _logits(
    use: str, rows: int, classes: int, *, tau: float = 1.0, dtype: torch.dtype = BF16,
    goal: float | None = None, tiny: bool,
) -> KernelCase:  # fmt: skip
    given = rows, classes
    if tiny:
        rows, classes = 3, min(40, classes)

    def draw(device: torch.device, few: bool) -> Sides:
        n = min(rows, FEW) if few else rows
        teacher = 5 * torch.randn(n, classes, device=device)
        student = teacher + torch.randn(n, classes, device=device)
        return {"student": student.to(dtype), "teacher": teacher.to(dtype)}

    return KernelCase(
        name="-".join([use, *map(str, given), _short(dtype), f"tau{tau:g}"]),
        kernel="softmax_rows",
        title=f"{use}, {rows} x {classes}, {_short(dtype)}, tau {tau:g}",
        draw=draw,
        ours=partial(by_kernel, entry(use, tau=tau), tau=tau),
        plain=partial(_PLAIN.get(use) or getattr(plain, use), tau=tau),
        tolerance=EXACT[dtype],
        liger={k: partial(f, tau=tau) for k, f in _LIGER[use].items()},
        floor_bytes=3 * rows * classes * dtype.itemsize,
        goal_ms=goal,
    )


def _sparse(rows: int, classes: int, k: int, *, goal: float, tiny: bool) -> KernelCase:
    given = rows, classes
    if tiny:
        rows, classes, k = 3, 40, 4

    def draw(device: torch.device, few: bool) -> Sides:
        n = min(rows, FEW) if few else rows
        teacher = 5 * torch.randn(n, classes, device=device)
        values, ids = teacher.log_softmax(-1).topk(k)
        student = (teacher + torch.randn(n, classes, device=device)).to(BF16)
        return {"student": student, "values": values, "ids": ids}

    return KernelCase(
        name="-".join(["sparse_soft_target", *map(str, given), "bf16"]),
        kernel="sparse_rows",
        title=f"sparse_soft_target, {rows} x {classes}, {k} known, bf16",
        draw=draw,
        ours=_sparse_rows,
        plain=partial(plain.sparse_soft_target, tau=1.0),
        tolerance=EXACT[BF16],
        floor_bytes=4 * rows * classes + 12 * rows * k,
        goal_ms=goal,
    )


def _sparse_rows(student: Tensor, values: Tensor, ids: Tensor) -> Tensor:
    from kdgraph.kernels.sparse_rows import sparse_rows

    return sparse_rows(student, values, ids, 1.0, "bucket").mean()


def _linear(tokens: int, classes: int, width: int, *, goal: float, tiny: bool) -> KernelCase:
    given = tokens, classes, width
    if tiny:
        tokens, classes, width = 5, 40, 16

    def draw(device: torch.device, few: bool) -> Sides:
        n = min(tokens, 64) if few else tokens
        made: Sides = {}
        for end in ("", "_t"):
            made[f"hidden{end}"] = torch.randn(n, width, device=device).to(BF16)
            weight = torch.randn(classes, width, device=device, dtype=BF16)
            made[f"weight{end}"] = weight * (3 * width**-0.5)
        return made

    return KernelCase(
        name="-".join(["linear_soft_target", *map(str, given), "bf16"]),
        kernel="linear_soft_target",
        title=f"two heads and soft_target, {tokens} x {classes}, width {width}, bf16, tau 2",
        draw=draw,
        ours=_linear_soft_target,
        plain=partial(plain.linear_forward_kl, tau=2.0),
        tolerance=PRODUCTS[BF16],
        trained=("hidden", "weight"),
        liger={
            "Liger": partial(liger.linear_forward_kl, tau=2.0),
            "Liger, KL": partial(liger.linear_kl_of_probabilities, tau=2.0),
            "Liger, chunked": partial(liger.chunked_linear_forward_kl, tau=2.0),
        },
        floor_bytes=2 * width * (3 * tokens + 3 * classes),
        floor_flops=8 * tokens * classes * width,
        goal_ms=goal,
    )


def _linear_soft_target(
    hidden: Tensor, weight: Tensor, hidden_t: Tensor, weight_t: Tensor
) -> Tensor:
    from kdgraph.kernels.linear_soft_target import Head, linear_soft_target

    share = hidden.new_full((len(hidden),), 4 / len(hidden), dtype=FLOAT)  # tau**2 and the mean
    heads = Head(hidden, weight, None, 1.0, 0.0), Head(hidden_t, weight_t, None, 1.0, 0.0)
    return linear_soft_target(*heads, 2.0, row_weight=share)[0]


def _maps(
    use: str, shape: tuple[int, int, int, int], *, tau: float | None = None,
    channels_last: bool = False, goal: float | None = None, tiny: bool,
) -> KernelCase:  # fmt: skip
    given = shape
    if tiny:
        shape = (2, 8, 3, 4)
    keys = {} if tau is None else {"tau": float(tau)}
    order = torch.channels_last if channels_last else torch.contiguous_format
    B, C, N = *shape[:2], prod(shape[2:])

    def draw(device: torch.device, few: bool) -> Sides:
        # all of them even where few would do: programs split their sums by the number of samples
        teacher = torch.randn(shape, device=device)
        student = teacher + 0.3 * torch.randn(shape, device=device)
        sides = {"student": student, "teacher": teacher}
        return {k: x.to(BF16, memory_format=order) for k, x in sides.items()}

    products = {"channel_correlation": 4 * C * C * N, "channel_wise": 0}
    cosines = 12 * min(C, N) ** 2 * max(C, N)
    flops = B * products.get(use, cosines * (2 if use == "csc" else 1))
    return KernelCase(
        name="-".join([use, *map(str, given), "bf16", *["last"] * channels_last]),
        kernel={"channel_wise": "softmax_rows_channels", "channel_correlation": use}.get(
            use, "csc"
        ),
        title=f"{use}, {list(shape)}, bf16" + ", channels last" * channels_last,
        draw=draw,
        ours=partial(by_kernel, entry(use, **keys), **keys),
        plain=partial(getattr(plain, use), **keys),
        tolerance=(EXACT if use == "channel_wise" else PRODUCTS)[BF16],
        floor_bytes=3 * prod(shape) * 2,
        floor_flops=flops,
        goal_ms=goal,
    )


def _relation(batch: int, width: int, *, tiny: bool) -> KernelCase:
    given = batch, width
    if tiny:
        batch, width = 6, 512

    def draw(device: torch.device, few: bool) -> Sides:
        n = min(batch, 32) if few else batch
        teacher = torch.randn(n, width, device=device)
        return {"student": teacher + 0.3 * torch.randn(n, width, device=device), "teacher": teacher}

    return KernelCase(
        name="-".join(["relation", *map(str, given), "fp32"]),
        kernel="relation",
        title=f"relation, {batch} x {width}, fp32",
        draw=draw,
        ours=partial(by_kernel, entry("relation")),
        plain=plain.relation,
        tolerance=EXACT[FLOAT],
        floor_bytes=3 * batch * width * 4,
    )


def _short(dtype: torch.dtype) -> str:
    return {FLOAT: "fp32", BF16: "bf16"}[dtype]
