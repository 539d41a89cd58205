"""What the samples of edge gradients in the report cost, as a share of the training.

A sample (``kdgraph/train/report/probe.py``) is one extra backward pass of the student for each
edge; one batch in ``EVERY`` times the number of edges is a sample. For each case this times a step
without (forward, backward, optimiser), the sample itself, and the bookkeeping of batches that are
none, each the median of rounds taken in turn, and prints

    share = (sample / N + bookkeeping) / step,    N = EVERY * edges

``book`` is the worst case: the teacher's values come with the batch, so that a step is little more
than the student's own. Times are processor times of one thread, which other work on the machine
moves less than those of a clock; on a GPU they are those of a clock, with the device waited for.

    python benchmarks/probe_cost.py
    python benchmarks/probe_cost.py --rounds 30 --device cuda --format json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import kdgraph
from kdgraph.spec.language import Spec
from kdgraph.train.report import probe
from kdgraph.train.report.numbers import weights
from kdgraph.train.report.probe import Probe

TARGET = 0.03


def pair(teacher: str | None, student: str, size: int, edges: dict[str, Any]) -> dict[str, Any]:
    """A spec of two networks, or of one and a teacher's logits in the batch."""
    taps = {"logits": "output"}
    batch: dict[str, Any] = {
        "image": {"shape": ["B", 3, size, size]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 10},
    }
    args = {"num_classes": 10}
    models = {"student": {"source": student, "args": args, "taps": taps}}
    if teacher is None:
        batch["teacher_logits"] = {"shape": ["B", 10]}
    else:
        models["teacher"] = {"source": teacher, "args": args, "taps": taps}
    theirs = "teacher_logits" if teacher is None else "teacher.logits"
    losses = {
        "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": theirs, "tau": 4},
    }
    return {"kdgraph": 1, "name": student, "batch": batch, "models": models,
            "losses": {**losses, **edges}}  # fmt: skip


MORE = {
    use: {"use": use, "student": "student.logits", "teacher": "teacher.logits"}
    for use in ("dist", "reverse_kl")
}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "digits": (pair("cifar/wrn-16-2", "cifar/resnet8", 8, {}), 64),
    "cifar": (pair("cifar/resnet56", "cifar/resnet20", 32, {}), 32),
    "four_edges": (pair("cifar/resnet56", "cifar/resnet20", 32, MORE), 32),
    "imagenet": (pair("torchvision/resnet50", "torchvision/resnet18", 64, {}), 32),
    "book": (pair(None, "cifar/resnet20", 32, {}), 32),
}


def main() -> None:
    """Measures every case and prints what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", choices=CASES, help="left out: all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {n: measure(*CASES[n], options.rounds, options.device) for n in options.case or CASES}
    if options.format == "json":
        print(json.dumps(found, indent=1))
        return
    print(f"{'case':12}{'edges':>6}{'step ms':>10}{'sample ms':>11}{'other us':>10}"
          f"{'every':>7}{'share':>9}")  # fmt: skip
    for name, row in found.items():
        print(f"{name:12}{row['edges']:6}{row['step_ms']:10.2f}{row['sample_ms']:11.2f}"
              f"{row['other_us']:10.1f}{row['every']:7}{row['share']:9.2%}")  # fmt: skip
    worst = max(row["share"] for row in found.values())
    print(f"largest share: {worst:.2%}, target below {TARGET:.0%}")


def measure(made: dict[str, Any], size: int, rounds: int, device: str) -> dict[str, Any]:
    """One case: times of a step, of a sample and of a batch that is none."""
    torch.manual_seed(0)
    spec = kdgraph.load_spec(made)
    step = kdgraph.compile(spec).to(device).train()
    optimizer = torch.optim.SGD(step.parameters(), lr=1e-3, momentum=0.9)
    batch = {name: column.to(device) for name, column in columns(spec, size).items()}
    watch, turn = Probe(["label"]), clock(device)
    steps, samples, others = [], [], []
    for at in range(rounds + 3):
        start = turn()
        out = step(**batch)
        forward = turn()
        watch.sample(step, out, weights(step, out.losses))
        sampled = turn()
        watch.is_due("", 0)  # counted for no leg that is sampled
        other = turn()
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        end = turn()
        if at >= 3:  # the first ones find their memory
            steps.append(forward - start + end - other)
            samples.append(sampled - forward)
            others.append(other - sampled)
    medians = [statistics.median(times) for times in (steps, samples, others)]
    every = probe.EVERY * len(spec.losses)
    return {
        "edges": len(spec.losses), "step_ms": medians[0] * 1e3, "sample_ms": medians[1] * 1e3,
        "other_us": medians[2] * 1e6, "every": every,
        "share": (medians[1] / every + medians[2]) / medians[0],
    }  # fmt: skip


def columns(spec: Spec, size: int) -> dict[str, Tensor]:
    """A batch of random values."""
    found = {}
    for name, entry in spec.batch.items():
        shape = [size if isinstance(n, str) else n for n in entry.shape]
        found[name] = torch.randint(entry.classes, shape) if entry.classes else torch.rand(shape)
    return found


def clock(device: str) -> Callable[[], float]:
    """Seconds of this thread on the CPU, of a clock on a device that is waited for."""
    if not device.startswith("cuda"):
        return time.process_time

    def waited() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return waited


if __name__ == "__main__":
    main()
