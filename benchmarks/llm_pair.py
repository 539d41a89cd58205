"""A pair of language models on one GPU: tokens a second, peak memory, share of the peak FLOPs.

Both are of Llama's form with random weights, the teacher in bf16 and frozen, the student trained
under autocast by labels and by the teacher's logits, which with ``--fused`` never exist. First the
two ways are compared at a small size. The share of the peak counts 6 FLOPs for each parameter of
the student and token, 2 for the teacher, and nothing for attention or for what is computed again.

``estimate`` is arithmetic, not a measurement: FSDP2 over N GPUs gathers the student's weights twice
and scatters its gradients once, and gathers the teacher's weights once, all in bf16; a rank moves
``(N - 1) / N`` of each. Two times frame what a step takes: all of it hidden behind the measured
step, or none.

    python benchmarks/llm_pair.py --device cuda --output benchmarks/results
    python benchmarks/llm_pair.py --tiny
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

# where PYTHONSAFEPATH is set, the folder of a script is not on the path
sys.path.append(str(Path(__file__).parent))

from versus.machine import hardware, slug, told

import kdgraph

# width, layers, heads, inner width
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"teacher": (32, 3, 2, 64), "student": (16, 2, 2, 32), "vocabulary": 97},
    "large": {
        "teacher": (4096, 32, 32, 11008), "student": (2048, 16, 16, 5504), "vocabulary": 128256,
    },
}  # fmt: skip
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, by the makers' sheets
WITHIN, BETWEEN = 450e9, 50e9  # bytes a second of a GPU: inside a node of 8, and beyond it


def main() -> None:
    """Compares, measures, estimates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tiny", action="store_true", help="models of a few thousand parameters")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for a file of the results")
    options = parser.parse_args()
    device = torch.device(options.device)
    equal = compare(device)
    size = "tiny" if options.tiny else "large"
    rows = [equal, *(measure(size, fused, device, options) for fused in (False, True))]
    rows += estimate(rows[-1])
    for row in rows:
        print(json.dumps(row))
    if options.output:
        path = options.output / f"llm_pair-{slug(hardware(device))}.json"
        content = {"environment": told(device), "cases": rows}
        path.write_text(json.dumps(content, indent=2) + "\n")


def pair(size: str, fused: bool, device: torch.device) -> kdgraph.DistillModule:
    """The compiled pair."""
    sizes = SIZES[size]
    row = {"shape": ["B", "L"], "dtype": "int64"}
    soft = {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"}
    spec = {
        "kdgraph": 1,
        "name": f"{size} pair",
        "batch": {"ids": row},
        "models": {name: model(sizes, name) for name in ("teacher", "student")},
        "losses": {"soft": soft | ({"fused_head": True} if fused else {})},
    }
    torch.manual_seed(0)
    with torch.device(device):
        return kdgraph.compile(spec)


def model(sizes: dict[str, Any], name: str) -> dict[str, Any]:
    """A causal language model as the spec writes it."""
    width, layers, heads, inner = sizes[name]
    return {
        "source": "hf/llama",
        "args": {
            "head": "causal-lm", "vocab_size": sizes["vocabulary"], "hidden_size": width,
            "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": heads, "intermediate_size": inner, "use_cache": False,
        },
        "input": {"input_ids": "ids"},
        "taps": {"logits": "output.logits"},
        **({"precision": "bf16"} if name == "teacher" else {}),
    }  # fmt: skip


def run(step: kdgraph.DistillModule, ids: torch.Tensor) -> torch.Tensor:
    """Forward and backward; the loss."""
    step.zero_grad()
    with torch.autocast(ids.device.type, torch.bfloat16):
        loss = step(ids=ids).loss
    loss.backward()
    return loss.detach()


def compare(device: torch.device) -> dict[str, Any]:
    """Logits and no logits give the same loss, at a small size.

    Raises:
        ValueError: where they do not.
    """
    torch.manual_seed(1)
    ids = torch.randint(0, 97, (2, 16), device=device)
    losses = [run(pair("tiny", fused, device), ids).item() for fused in (False, True)]
    difference = abs(losses[0] - losses[1]) / abs(losses[0])
    if not difference <= 2e-2:
        raise ValueError(f"with a fused head the loss is {losses[1]}, without {losses[0]}")
    return {"case": "equal", "loss": losses[0], "relative_difference": difference}


def measure(
    size: str, fused: bool, device: torch.device, options: argparse.Namespace
) -> dict[str, Any]:
    """Throughput and memory of the pair."""
    step = pair(size, fused, device)
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in step.networks.items()}
    length = 16 if size == "tiny" else options.length
    ids = torch.randint(0, SIZES[size]["vocabulary"], (options.batch, length), device=device)
    cuda = device.type == "cuda"
    for _ in range(3):
        run(step, ids)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(options.rounds):
        start = time.perf_counter()
        run(step, ids)
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    seconds, tokens = statistics.median(times), ids.numel()
    flops = tokens * (6 * counts["student"] + 2 * counts["teacher"])
    name = hardware(device)
    peak = next((flops for part, flops in PEAK.items() if part in name), None)
    return {
        "case": f"{size}, {'fused head' if fused else 'logits'}", "parameters": counts,
        "batch": options.batch, "length": length, "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "flops_utilisation": flops / seconds / peak if peak else None,
    }  # fmt: skip


def estimate(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """What a step moves over N GPUs, and between which bounds its time lies."""
    rows = []
    weights = {name: 2 * number for name, number in measured["parameters"].items()}
    for gpus in (8, 64, 256, 1024):
        moved = (3 * weights["student"] + weights["teacher"]) * (gpus - 1) / gpus
        wire = moved / (WITHIN if gpus <= 8 else BETWEEN)
        rows.append({
            "case": "estimate", "gpus": gpus, "bytes_of_a_rank": moved, "wire_seconds": wire,
            "step_seconds": [max(measured["seconds"], wire), measured["seconds"] + wire],
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
