"""How long ``kdgraph.compile`` takes, and how that grows with depth.

A ResNet pair, then pairs of transformers of 12, 24, 48 and 96 layers: one family that torch.fx
opens where it is tapped (timm's vision transformer), one that torch.export turns into operators
(BERT of transformers). Teacher and student have the same depth, a hint half way and a soft
target at the end. Models are built before the clock starts and torch is imported, as a training
script has both.

    python benchmarks/compile_time.py
    python benchmarks/compile_time.py --family vit --depths 12 24
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

# where PYTHONSAFEPATH is set, the folder of a script is not on the path
sys.path.append(str(Path(__file__).parent))

from versus import chart
from versus.machine import hardware, slug, told

import kdgraph

Pair = tuple[dict[str, Any], dict[str, nn.Module]]


def resnets() -> Pair:
    """ResNet-50 and ResNet-18, a hint after layer2 and a soft target."""
    from torchvision.models import resnet18, resnet50

    batch = {"image": {"shape": ["B", 3, 96, 96]}}
    return _spec(batch, "image", "layer2", "output"), {"teacher": resnet50(), "student": resnet18()}


def vit(depth: int) -> Pair:
    """Vision transformers of timm, narrow."""
    import timm

    def net() -> nn.Module:
        sizes: dict[str, Any] = {"img_size": 32, "patch_size": 16, "embed_dim": 64}
        model: nn.Module = timm.create_model(
            "vit_tiny_patch16_224", depth=depth, num_heads=2, **sizes
        )
        return model

    batch = {"image": {"shape": ["B", 3, 32, 32]}}
    spec = _spec(batch, "image", f"blocks.{depth // 2 - 1}", "output")
    return spec, {"teacher": net(), "student": net()}


def bert(depth: int) -> Pair:
    """BERT classifiers of transformers, narrow."""
    from transformers import BertConfig, BertForSequenceClassification

    def net() -> nn.Module:
        sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_labels": 10}
        config = BertConfig(vocab_size=100, num_hidden_layers=depth, num_attention_heads=2, **sizes)
        model: nn.Module = BertForSequenceClassification(config)  # type: ignore[no-untyped-call]  # untyped there
        return model

    batch = {"input_ids": {"shape": ["B", 16], "dtype": "int64"}}
    block = f"bert.encoder.layer.{depth // 2 - 1}"
    spec = _spec(batch, {"input_ids": "input_ids"}, block, "output.logits")
    return spec, {"teacher": net(), "student": net()}


FAMILIES: dict[str, Callable[[int], Pair]] = {"vit": vit, "bert": bert}


def _spec(batch: dict[str, Any], given: Any, block: str, logits: str) -> dict[str, Any]:
    model = {"input": given, "taps": {"mid": block, "logits": logits}}
    sides = {"student": "student.logits", "teacher": "teacher.logits"}
    return {
        "kdgraph": 1,
        "name": "compile-time",
        "batch": batch,
        "models": {"teacher": model, "student": model},
        "links": {"mid": {"student": "student.mid", "teacher": "teacher.mid"}},
        "losses": {
            "hint": {"use": "hint", "link": "mid"},
            "soft": {"use": "soft_target", **sides},
        },
    }


def measure(make: Callable[[], Pair], repeats: int) -> dict[str, Any]:
    """Seconds of a compilation: the median of ``repeats``, and its parts."""
    runs: list[dict[str, Any]] = []
    for _ in range(repeats):
        spec, models = make()
        gc.collect()
        start, computing = time.perf_counter(), time.process_time()
        step = kdgraph.compile(spec, models=models)
        seconds, computing = time.perf_counter() - start, time.process_time() - computing
        captures = {name: c.seconds for name, c in step.report.captures.items()}
        passes = {r.name: r.seconds for r in step.report.records}
        runs.append(
            {
                "seconds": seconds,
                "processor_seconds": computing,
                "captures": captures,
                "passes": passes,
                # checks between the passes, the program for evaluation, generated Python
                "rest": seconds - sum(captures.values()) - sum(passes.values()),
                "rungs": {name: c.rung for name, c in step.report.captures.items()},
                "nodes": len(step.report.graph.graph.nodes),
            }
        )
    middle = sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]
    return {**middle, "least": min(run["seconds"] for run in runs), "repeats": repeats}


def slope(rows: list[dict[str, Any]]) -> float:
    """The exponent p of ``seconds ~ depth**p``, by least squares; 1 is linear."""
    x, y = ([math.log(r[key]) for r in rows] for key in ("depth", "seconds"))
    return statistics.linear_regression(x, y).slope


def main() -> int:
    """Measures and prints; writes a file of results where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", action="append", choices=FAMILIES)
    parser.add_argument("--depths", nargs="+", type=int, default=[12, 24, 48, 96], metavar="N")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for a file of the results")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="an SVG of the growth")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    rows: list[dict[str, Any]] = []
    measure(resnets, 1)  # what is imported on first use
    rows.append({"pair": "resnet", **measure(resnets, options.repeats)})
    show(rows[-1])
    for family in options.family or FAMILIES:
        measure(partial(FAMILIES[family], 2), 1)
        for depth in options.depths:
            found = measure(partial(FAMILIES[family], depth), options.repeats)
            rows.append({"pair": family, "depth": depth, **found})
            show(rows[-1])
        of_family = [r for r in rows if r["pair"] == family]
        if len(of_family) > 1:
            print(f"{family}: seconds grow with depth to the power {slope(of_family):.2f}")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        cpu = torch.device("cpu")
        path = options.output / f"compile_time-{slug(hardware(cpu))}.json"
        text = json.dumps({"environment": told(cpu), "pairs": rows}, indent=2)
        path.write_text(text + "\n")
    if options.chart:
        options.chart.write_text(growth([r for r in rows if "depth" in r]))
    return 0


def growth(rows: list[dict[str, Any]]) -> str:
    """A chart of seconds over depth."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        series.setdefault(row["pair"], []).append((row["depth"], row["seconds"]))
    title = "Seconds of kdgraph.compile by layers of each model"
    return chart.lines(series, title=title, below="layers")


def show(row: dict[str, Any]) -> None:
    """One pair, in a line: the total, the captures and every pass that takes a hundredth of it."""
    captures = ", ".join(
        f"{name} {row['rungs'][name]} {seconds:.2f}" for name, seconds in row["captures"].items()
    )
    passes = {n: s for n, s in row["passes"].items() if s > 0.01 * row["seconds"]}
    said = ", ".join(f"{name} {seconds:.2f}" for name, seconds in passes.items())
    name = f"{row['pair']} {row.get('depth', '')}".strip()
    print(
        f"{name}: {row['seconds']:.2f} s ({row['processor_seconds']:.2f} of the processor), "
        f"{row['nodes']} nodes; captures: {captures}; passes: "
        f"{said}; rest {row['rest']:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
