"""Measures how many digits of KL are left, and writes the tables of ``docs/numerics.md``.

    python benchmarks/numerics_page.py

No GPU is needed: Triton's interpreter runs the programs of ``kdgraph/kernels`` on the CPU, in
float32. A GPU's exponentials and logarithms may differ from the interpreter's in their last bits.
"""

from __future__ import annotations

import os
import platform
import sys
import warnings
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # counts when Triton is first imported

import torch
import triton
from torch import Tensor
from torch.nn.functional import kl_div, linear, log_softmax

from kdgraph.kernels._chunks import Head
from kdgraph.kernels.linear_soft_target import linear_soft_target
from kdgraph.kernels.softmax_rows import SoftmaxRows
from kdgraph.losses.soft_target import SoftTarget

PAGE = Path(__file__).parents[1] / "docs" / "numerics.md"
TAUS = (0.25, 1.0, 4.0, 20.0, 100.0, 1000.0)
GAPS = (1.0, 0.1, 0.01, 0.001)
ROWS, CLASSES, SPREAD = 4, 1000, 10.0
WIDTH = 64  # of the hidden states of a head
HEAD_TAUS = (1.0, 4.0, 100.0)


def exact(student: Tensor, teacher: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """KL of each row and its gradient in float64, in a form in which nothing cancels there."""
    s, t = student.double(), teacher.double()
    at = t.argmax(1, keepdim=True)
    u = ((t - t.gather(1, at)) - (s - s.gather(1, at))) / tau
    log_p, log_q = (t / tau).log_softmax(1), (s / tau).log_softmax(1)
    p, q = log_p.exp(), log_q.exp()
    v = u - (p * u).sum(1, keepdim=True)
    area = (p * (v + torch.expm1(-v))).sum(1, keepdim=True)  # exp(KL) - 1
    near = area < 0.5
    d = torch.where(near, -(v + torch.log1p(area)), log_q - log_p)
    textbook = (p * (log_p - log_q)).sum(1, keepdim=True)
    rise = torch.where(d.abs() < 1, p * torch.expm1(d), q - p)
    return torch.where(near, torch.log1p(area), textbook).squeeze(1), rise / tau


def plain(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """What most code does, in float32."""
    logs = (log_softmax(z / tau, 1) for z in (student, teacher))
    return kl_div(*logs, reduction="none", log_target=True).sum(1)


def kernel(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """What ``soft_target`` runs on a GPU."""
    loss = SoftTarget(student="student.logits", teacher="teacher.logits", scale=False)
    return SoftmaxRows().run(loss, student=student, teacher=teacher, tau=tau)


def row(tau: float, gap: float) -> str:
    """One line of the table."""
    noise = torch.Generator().manual_seed(0)
    teacher = SPREAD * torch.randn(ROWS, CLASSES, generator=noise)
    student = teacher + gap * torch.randn(ROWS, CLASSES, generator=noise)
    value, rise = exact(student, teacher, tau)
    cells = [f"{tau:g}", f"{gap:g}", f"{float(value.mean()):.1e}"]
    for run in (plain, kernel):
        x = student.clone().requires_grad_()
        found = run(x, teacher, tau)
        found.sum().backward()
        assert x.grad is not None
        off = ((found.detach() - value).abs() / value).max()
        norm = ((x.grad - rise).norm(dim=1) / rise.norm(dim=1)).max()
        cells += [f"{float(off):.0e}", f"{float(norm):.0e}"]
    return "| " + " | ".join(cells) + " |"


def head_row(tau: float, gap: float) -> str:
    """One line of the table of fused heads."""
    noise = torch.Generator().manual_seed(0)
    scale = SPREAD / WIDTH**0.5
    its = scale * torch.randn(CLASSES, WIDTH, generator=noise)
    hidden = torch.randn(ROWS, WIDTH, generator=noise)
    own = its + gap / WIDTH**0.5 * torch.randn(CLASSES, WIDTH, generator=noise)
    wide = hidden.double()
    value, rise = exact(wide @ own.double().T, wide @ its.double().T, tau)
    rise = rise @ own.double()

    def plainly(x: Tensor) -> Tensor:
        return plain(linear(x, own), linear(hidden, its), tau).sum()

    def fused(x: Tensor) -> Tensor:
        heads = (Head(x, own, None, 1.0, 0.0), Head(hidden, its, None, 1.0, 0.0))
        counts = torch.ones(ROWS)
        return linear_soft_target(*heads, tau, None, counts, 8 * CLASSES * ROWS)[0]

    cells = [f"{tau:g}", f"{gap:g}"]
    for run in (plainly, fused):
        x = hidden.clone().requires_grad_()
        found = run(x)
        found.backward()
        assert x.grad is not None
        cells += [
            f"{float((found.detach() - value.sum()).abs() / value.sum()):.0e}",
            f"{float((x.grad - rise).norm() / rise.norm()):.0e}",
        ]
    return "| " + " | ".join(cells) + " |"


def heads_table() -> str:
    """Fused heads beside plain ones."""
    lines = [
        f"{ROWS} rows of {WIDTH} numbers, {CLASSES} classes, logits with a standard deviation of "
        f"{SPREAD:g}, the two heads' logits a *gap* apart; made as the table above.",
        "",
        "| tau | gap | plain value | gradient | fused value | gradient |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
        *(head_row(tau, gap) for tau in HEAD_TAUS for gap in GAPS),
    ]
    return "\n".join(lines) + "\n"


def table() -> str:
    """The whole of it, and how it was made."""
    lines = [
        f"{ROWS} rows of {CLASSES} classes, the teacher's logits normal with a standard deviation "
        f"of {SPREAD:g}, the student's the same plus normal noise of size *gap*; the worst row. "
        f"Made by `python benchmarks/numerics_page.py` with torch {torch.__version__}, Triton "
        f"{triton.__version__} interpreted, Python {platform.python_version()}.",
        "",
        "| tau | gap | KL | `F.kl_div` value | gradient | kernel value | gradient |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(row(tau, gap) for tau in TAUS for gap in GAPS),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Rewrites the page."""
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # the interpreter's -inf less -inf
    for name, made in (("kl", table), ("heads", heads_table)):
        start, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
        before, rest = PAGE.read_text().split(start)
        PAGE.write_text(before + start + made() + end + rest.split(end)[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
