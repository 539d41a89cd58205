"""What embedding costs, and how a step grows with processes.

``overhead``: forward and backward of a compiled step over the same lines written by hand, for a
ResNet-18 that teaches a ResNet-18 on 64x64 images; ``as written`` is a step without any optional
pass, so that nothing but the wrapping differs. Both sides are compared first, then timed in turn.

``scaling``: images a second of DistributedDataParallel around the step, one thread for each
process; ``strong`` shares one batch between the processes, ``weak`` gives each a batch of that
size. ``efficiency`` is throughput over that of one process, over the number of processes.

``messages``: bytes that one step sends for each rank, beside the gradients.

    python benchmarks/scale.py --output benchmarks/results
    python benchmarks/scale.py --processes 1 2 4 --seconds 30
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from torch.nn.parallel import DistributedDataParallel

# where PYTHONSAFEPATH is set, the folder of a script is not on the path
sys.path.append(str(Path(__file__).parent))

from versus import chart
from versus.machine import hardware, slug, told
from versus.timing import Pair, Side, compare, take_turns

import kdgraph
from kdgraph.passes.base import PASSES

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "pair",
    "batch": {
        "image": {"shape": ["B", 3, 64, 64]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 100},
    },
    "models": {
        name: {
            "source": "torchvision/resnet18",
            "args": {"num_classes": 100},
            "taps": {"logits": "output"},
        }
        for name in ("teacher", "student")
    },
    "losses": {
        "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "soft": {
            "use": "soft_target", "student": "student.logits", "teacher": "teacher.logits",
            "tau": 4.0,
        },
    },
}  # fmt: skip


def main() -> None:
    """Runs what is asked for; a process of ``scaling`` tells its throughput."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16, help="images of a step")
    parser.add_argument("--threads", type=int, default=1, help="of torch, for the overhead")
    parser.add_argument("--rounds", type=int, default=40, help="samples of each side")
    parser.add_argument("--seconds", type=float, default=60, help="for each figure, about")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for a file of the results")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="an SVG of the scaling")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        one_of_many(options)
        return
    torch.set_num_threads(options.threads)
    rows = [*overhead(options), *scaling(options), *messages(options)]
    if options.output:
        path = options.output / f"scale-{slug(hardware(torch.device('cpu')))}.json"
        content = {"environment": told(torch.device("cpu"), "torch"), "cases": rows}
        path.write_text(json.dumps(content, indent=2) + "\n")
        print(f"written: {path}", file=sys.stderr)
    if options.chart:
        options.chart.write_text(growth(rows))


def tell(row: dict[str, Any]) -> dict[str, Any]:
    """Prints a row as it is found."""
    print(json.dumps(row), flush=True)
    return row


def batch(size: int, seed: int = 1) -> dict[str, Tensor]:
    """Images and labels."""
    torch.manual_seed(seed)
    return {"image": torch.randn(size, 3, 64, 64), "label": torch.randint(0, 100, (size,))}


def step_of(**settings: Any) -> kdgraph.DistillModule:
    """The compiled pair, with the same weights each time."""
    torch.manual_seed(0)
    return kdgraph.compile(SPEC, **settings)


def overhead(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The step over the same lines by hand."""
    given = batch(options.batch)
    rows = []
    for case, without in (("step", ()), ("as written", tuple(PASSES.names()))):
        ours, theirs = step_of(without=without), step_of(without=without)
        hand = by_hand(theirs.networks["teacher"], theirs.student, given)
        pair = Pair(
            Side(lambda step=ours: step(**given).loss, dict(ours.student.named_parameters())),
            Side(hand, dict(theirs.student.named_parameters())),
        )
        equal = compare(pair, torch.device("cpu"))
        times = take_turns(
            pair, torch.device("cpu"), rounds=options.rounds, seconds=options.seconds,
            autocast=False,
        )  # fmt: skip
        ratio, low, high = times.ratio()
        rows.append(
            tell({
                "case": f"overhead, {case}", "batch": options.batch, "threads": options.threads,
                "ours_ms": statistics.median(times.ours),
                "by_hand_ms": statistics.median(times.theirs),
                "ours_over_by_hand": 1 / ratio, "low": 1 / high, "high": 1 / low,
                "difference": equal._asdict(), "samples": len(times.ours),
            })
        )  # fmt: skip
    return rows


def by_hand(teacher: nn.Module, student: nn.Module, given: dict[str, Tensor]) -> Any:
    """What a careful user writes."""

    def loss() -> Tensor:
        with torch.no_grad():
            target = softmax(teacher(given["image"]) / 4, 1)
        logits = student(given["image"])
        soft = kl_div(log_softmax(logits / 4, 1), target, reduction="batchmean") * 16
        return cross_entropy(logits, given["label"]) + soft

    return loss


def scaling(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Throughput by number of processes."""
    rows: list[dict[str, Any]] = []
    for kind in ("strong", "weak"):
        alone = 0.0
        for processes in options.processes:
            size = options.batch // processes if kind == "strong" else options.batch
            found = launched(processes, size, options.seconds)
            alone = alone or found / processes
            rows.append(
                tell({
                    "case": kind, "processes": processes, "batch_of_each": size,
                    "images_per_second": found, "efficiency": found / alone / processes,
                })
            )  # fmt: skip
    return rows


def growth(rows: list[dict[str, Any]]) -> str:
    """A chart of throughput over processes."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["case"] in ("strong", "weak"):
            point = (row["processes"], row["images_per_second"])
            series.setdefault(row["case"], []).append(point)
    alone = statistics.mean(points[0][1] / points[0][0] for points in series.values())
    most = max(n for points in series.values() for n, _ in points)
    series["linear"] = [(n, n * alone) for n in (0, most)]
    return chart.lines(
        series, title="Images a second under DDP", below="processes", dashed="linear"
    )


def launched(processes: int, size: int, seconds: float) -> float:
    """Images a second of all processes together."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={processes}", __file__, "--rank", f"--batch={size}",
        f"--seconds={seconds}",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout.split()[-1])


def one_of_many(options: argparse.Namespace) -> None:
    """Steps of one process among several; the first tells the throughput of all."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    step = step_of()
    model = DistributedDataParallel(step)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    given = batch(options.batch, seed=rank)

    def once() -> None:
        optimizer.zero_grad()
        model(**given).loss.backward()
        optimizer.step()

    for _ in range(3):
        once()
    distributed.barrier()
    done, start = 0, time.perf_counter()
    while True:
        once()
        done += 1
        spent = torch.tensor(time.perf_counter() - start)
        distributed.broadcast(spent, 0)  # all stop after the same step
        if spent > options.seconds and done >= 5:
            break
    if rank == 0:
        print(world * options.batch * done / spent.item())
    distributed.destroy_process_group()


def messages(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What a step sends beside gradients: counted, not measured."""
    rows = []
    for spec in (SPEC, "specs/digits_features.yaml"):
        step = kdgraph.compile(spec, also=["across_ranks"])
        gradients = sum(4 * p.numel() for p in step.parameters() if p.requires_grad)
        edges = step.program.get_submodule("rewritten.across_ranks").edges
        numbers = 8 * (len(edges) + sum(edge.kind == "rows" for edge in edges))
        rows.append(
            tell({
                "case": "messages", "spec": step.spec.name, "gradients_bytes": gradients,
                "sums_and_numbers_bytes": numbers,
            })
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
