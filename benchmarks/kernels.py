"""The GPU kernels against PyTorch, torch.compile and Liger-Kernel, on the same work.

Each case goes from raw tensors to the value and its gradients. First it is compared with float64,
on fresh inputs and with nan in memory that is not yet written; a case that is wrong is not timed.
Times are medians of at least 50 calls between events of the device, over several sets of inputs
where a cache would hold one; what is brief is replayed as a CUDA graph. The floor is the least
that must be read and written, or multiplied, at the speed of a large copy and of a large product
on the same device. All this ends within eight minutes: what there is no time for is left out, and
said to be.

    python benchmarks/kernels.py --output benchmarks/results
    python benchmarks/kernels.py --case relation --format json
    python benchmarks/kernels.py --device cpu --tiny

With ``--device cpu --tiny`` Triton's interpreter runs everything at sizes without meaning.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if "--tiny" in sys.argv and __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"  # counts when Triton is first imported

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

# where PYTHONSAFEPATH is set, the folder of a script is not on the path
sys.path.append(str(Path(__file__).parent))

from versus import liger
from versus.device import FEWEST, Ceilings, ceilings, draws, grads, leaves, peak_mb, timed
from versus.kernel_case import KernelCase, Sides
from versus.kernel_cases import cases
from versus.machine import slug, told

SECONDS = 450.0
SAME = 0.05  # relative; half precision on the way to the logits costs digits
_console = Console(stderr=True, highlight=False)


def main() -> int:
    """Runs the cases; the exit status is 1 when a kernel is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--case", action="append", metavar="START", help="of its name; default: all"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="prove that it runs; CPU only")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for a file of the results")
    options = parser.parse_args()
    if options.tiny != (options.device == "cpu"):
        parser.error("--device cpu and --tiny go together")

    device = torch.device(options.device)
    end = time.monotonic() + SECONDS
    torch.manual_seed(0)
    top = ceilings(device)
    progress(f"copy {top.bytes / 1e12:.2f} TB/s, bf16 products {top.flops / 1e12:.1f} TFLOP/s")
    # PyTorch's products of float32 may use the matrix units, as the kernels' do
    torch.set_float32_matmul_precision("high")
    rows = []
    for case in cases(tiny=options.tiny):
        if not options.case or case.name.startswith(tuple(options.case)):
            rows.append(run(case, device, top, end))
            progress(sentence(rows[-1]))
    if options.format == "json":
        print(json.dumps(rows, indent=2))
    else:
        Console(width=None if Console().is_terminal else 140).print(table(rows))
    if options.output:
        progress(f"written: {write(options.output, rows, device, top)}")
    return 0 if all(r["right"] is not False for r in rows) else 1


def run(case: KernelCase, device: torch.device, top: Ceilings, end: float) -> dict[str, Any]:
    """One case: right, then timed, then what it is compared with."""
    row: dict[str, Any] = {"case": case.name, "title": case.title, "right": None, "others": {}}
    if time.monotonic() > end:
        return row | {"note": "no time was left"}
    try:
        row |= check(case, device)
        if row["right"]:
            row |= measure(case, device, top, end)
    except torch.OutOfMemoryError:
        row["note"] = "out of memory"
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return row


def check(case: KernelCase, device: torch.device) -> dict[str, Any]:
    """The relative errors of value and gradients, and PyTorch's, against float64."""
    (sides,) = draws(case, device, few=True)
    wide = {k: x.double() if x.is_floating_point() else x for k, x in sides.items()}
    exact = grads(case, case.plain, leaves(case, wide))
    with _nan_in_new_memory():
        ours = errors(grads(case, case.ours, sides), exact)
    theirs = errors(grads(case, case.plain, sides), exact)
    right = all(error <= most for error, most in zip(ours, case.tolerance, strict=True))
    return {"right": right, "errors": ours, "plain_errors": theirs, "tolerance": case.tolerance}


def errors(found: list[Any], exact: list[Any]) -> list[float]:
    """Of the value, and the largest of a gradient, in its norm; nan is infinite."""
    each = [
        float((a.detach().double() - b.detach()).norm() / b.detach().norm().clamp_min(1e-300))
        for a, b in zip(found, exact, strict=True)
    ]
    each = [math.inf if math.isnan(e) else e for e in each]
    return [each[0], max(each[1:])]


@contextmanager
def _nan_in_new_memory() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def measure(case: KernelCase, device: torch.device, top: Ceilings, end: float) -> dict[str, Any]:
    """Times and memory of the kernel, then of the others."""
    sets = draws(case, device)
    (ms, replayed), (again, _) = (timed(case, case.ours, sets) for _ in range(2))
    floor = top.floor_ms(case)
    found: dict[str, Any] = {
        "ms": ms,
        "again_ms": again,  # how far apart two runs are
        "replayed": replayed,
        "floor_ms": floor,
        "of_floor": floor / ms,
        "gb_per_s": case.floor_bytes / ms / 1e6,
        "tflop_per_s": case.floor_flops / ms / 1e9,
        "goal_ms": case.goal_ms,
        "peak_mb": peak_mb(case, case.ours, sets[0]),
        "sets": len(sets),
        "others": {},
    }
    value = float(case.ours(**sets[0]).detach())
    others = {"PyTorch": case.plain}
    if device.type == "cuda":  # Triton's interpreter is not what either would run
        others["torch.compile"] = torch.compile(case.plain, fullgraph=True, dynamic=False)
        others |= case.liger if liger.installed() else {}
    for name, loss in others.items():
        if time.monotonic() > end:
            found["others"][name] = {"note": "no time was left"}
        else:
            found["others"][name] = other(case, loss, sets, value, ms)
        gc.collect()
    torch.compiler.reset()
    return found


def other(
    case: KernelCase, loss: Callable[..., Tensor], sets: list[Sides], value: float, ms: float
) -> dict[str, Any]:
    """Time and memory of another way to the value; nothing where it comes to another one."""
    try:
        theirs = float(loss(**sets[0]).detach())
        if not abs(theirs - value) <= SAME * abs(value):
            return {"note": f"another value: {theirs:.6g}, not {value:.6g}"}
        found, replayed = timed(case, loss, sets)
        mb = peak_mb(case, loss, sets[0])
        return {"ms": found, "ratio": found / ms, "replayed": replayed, "peak_mb": mb}
    except Exception as error:  # their faults are no reason to stop
        return {"note": f"{type(error).__name__}: {error}"[:200]}


def progress(text: str) -> None:
    """A line to stderr."""
    _console.print(text, soft_wrap=True, markup=False)


def sentence(row: dict[str, Any]) -> str:
    """A row in one line."""
    if row["right"] is False:
        return f"{row['title']}: WRONG, errors {row['errors']} of at most {row['tolerance']}"
    if "ms" not in row:
        return f"{row['title']}: {row['note']}"
    others = "".join(
        f", {name} {o['ratio']:.2f}x" if "ratio" in o else f", {name}: {o['note'][:60]}"
        for name, o in row["others"].items()
    )
    return f"{row['title']}: {row['ms']:.3f} ms, {row['of_floor']:.0%} of the floor{others}"


def table(rows: list[dict[str, Any]]) -> Table:
    """All rows."""
    shown = Table(title="value and gradients, from raw tensors", title_justify="left")
    shown.add_column("case")
    heads = ("ms", "goal", "GB/s", "TFLOP/s", "of floor", "MB")
    others = list(dict.fromkeys(name for r in rows for name in r["others"]))
    for head in (*heads, *others):
        shown.add_column(head, justify="right")
    for r in rows:
        if "ms" not in r:
            shown.add_row(r["title"], "wrong" if r["right"] is False else r["note"])
            continue
        cells = [r["others"].get(name, {}) for name in others]
        shown.add_row(
            r["title"],
            f"{r['ms']:.3f}",
            "" if r["goal_ms"] is None else f"{r['goal_ms']:g}",
            f"{r['gb_per_s']:.0f}",
            f"{r['tflop_per_s']:.1f}" if r["tflop_per_s"] else "",
            f"{r['of_floor']:.0%}",
            "" if r["peak_mb"] is None else f"{r['peak_mb']:.0f}",
            *(f"{c['ratio']:.2f}x" if "ratio" in c else "no" if c else "" for c in cells),
        )
    return shown


def write(folder: Path, rows: list[dict[str, Any]], device: torch.device, top: Ceilings) -> Path:
    """One file per device, complete or not at all; returns its path."""
    facts = told(device, "triton", "liger-kernel") | {"calls": FEWEST, **top._asdict()}
    folder.mkdir(parents=True, exist_ok=True)
    name = "kernels" if device.type == "cuda" else "tiny-kernels"  # which no page shows
    path = folder / f"{name}-{slug(facts['hardware'])}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"environment": facts, "cases": rows}, indent=2) + "\n")
    return part.replace(path)


if __name__ == "__main__":
    raise SystemExit(main())
