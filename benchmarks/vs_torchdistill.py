"""Steps of kdgraph and of torchdistill on equal models, weights, batches and losses.

Each case first checks that both give the same loss and the same gradients of the student, then
times a step (forward and backward, without the optimiser, which is the same) of both in turn.
Ratios are torchdistill over kdgraph, so that more is better for kdgraph: the median of the pairs,
with the 95 percent interval of that median.

    python benchmarks/vs_torchdistill.py
    python benchmarks/vs_torchdistill.py --case hint --case logits --rounds 40 --format json
    python benchmarks/vs_torchdistill.py --device cuda
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own lines

import torch

# where PYTHONSAFEPATH is set, the folder of a script is not on the path
sys.path.append(str(Path(__file__).parent))

from versus import output
from versus.cases import CASES, Case
from versus.sizes import sizes
from versus.timing import Pair, Side, compare, peak_memory, take_turns


def main() -> int:
    """Runs the cases; the exit status is 1 when two sides are not equal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, metavar="NAME", help=", ".join(CASES)
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of torch, on the CPU")
    parser.add_argument("--rounds", type=int, default=20, help="samples of each side")
    parser.add_argument(
        "--seconds", type=float, default=15, help="for the samples of a case; at least 5 rounds"
    )
    parser.add_argument(
        "--compiled",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with the cases that go through torch.compile",
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for a file of the results")
    options = parser.parse_args()

    logging.disable(logging.INFO)  # torchdistill tells each step of its setup
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    rows: list[dict[str, Any]] = []
    for name in options.case or CASES:
        if not CASES[name].compiled or options.compiled:
            output.progress(f"{name}: {CASES[name].title}")
            try:
                found = run(CASES[name], device, rounds=options.rounds, seconds=options.seconds)
            except ValueError as error:
                output.progress(f"{name}: {error}")
                return 1
            rows.append({"case": name, **found})
            output.progress(output.sentence(rows[-1]))
    if options.format == "json":
        print(json.dumps(rows, indent=2))
    else:
        output.table(rows)
    if options.output:
        output.progress(f"written: {output.write(options.output, rows, sizes(device))}")
    return 0


def run(case: Case, device: torch.device, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Both sides of a case: equal, then timed, then their memory.

    Raises:
        ValueError: where they are not equal.
    """
    torch.manual_seed(0)
    pair = case.make(sizes(device))
    equal = compare(pair, device)
    autocast = device.type == "cuda"
    if case.compiled:
        pair = compiled(pair)
        equal = compare(pair, device)
    times = take_turns(pair, device, rounds=rounds, seconds=seconds, autocast=autocast)
    ours_mb, theirs_mb = (peak_memory(side, device, autocast=autocast) for side in pair)
    row = output.row(case, equal, times, ours_mb, theirs_mb)
    del pair
    gc.collect()
    return row


def compiled(pair: Pair) -> Pair:
    """Both sides through ``torch.compile``, each as one graph."""
    return Pair(*(Side(torch.compile(s.loss, fullgraph=True), s.trained) for s in pair))


if __name__ == "__main__":
    raise SystemExit(main())
