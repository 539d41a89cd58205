"""Draws what a trained student attends to: a row for each block, its shares and their entropy.

    python benchmarks/attention_picture.py SPEC RUN [--name distilled] [--seed 0] -o FILE.svg

RUN is the folder that ``kdgraph train SPEC -o RUN`` has written. Drawn are all modules called
``log_rows``: the routes of ``tree/kdexplainer`` and what the action ``attend`` puts in.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path

import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.graph.example import example_batch
from kdgraph.visual.colours import FADED, INK, LINE

_CELL, _GAP, _SIDE, _TOP = 16, 24, 44, 40  # pixels: a cell, between layers, for entropies, title


def trained(spec: Path, run: Path, name: str, seed: int) -> kdgraph.DistillModule:
    """The compiled spec as a run has left it."""
    step = kdgraph.compile(spec)
    file = run / name / f"seed-{seed}" / "last.ckpt"
    step.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["distill"])
    return step


def rows_of(step: kdgraph.DistillModule) -> dict[str, Tensor]:
    """The shares of every attention in the student, [M, N], by the path of its module.

    Those of a tree in hard mode are what they were before it: softmaxes at the last epoch.
    """
    found: dict[str, Tensor] = {}
    student = step.student.eval()
    hard = dict(student.named_buffers()).get("hard")
    mode = hard.clone() if hard is not None else None
    hooks = [
        module.register_forward_hook(_keeper(found, path.rpartition(".")[0]))
        for path, module in student.named_modules()
        if path.rpartition(".")[2] == "log_rows"
    ]
    entry = next(iter(step.spec.batch))
    with torch.no_grad():
        if hard is not None:
            hard.fill_(False)
        student(example_batch(step.spec)[entry])
        if hard is not None and mode is not None:
            hard.copy_(mode)
    for hook in hooks:
        hook.remove()
    return found


def _keeper(found: dict[str, Tensor], path: str) -> object:
    def keep(module: nn.Module, given: object, log_rows: Tensor) -> None:
        found[path] = log_rows.exp()

    return keep


def entropies(rows: Tensor) -> list[float]:
    """``-sum_n a_n ln a_n`` of each row, in nats."""
    return (-torch.special.xlogy(rows, rows).sum(1)).tolist()  # type: ignore[no-any-return]  # tolist is untyped


def picture(layers: Mapping[str, Tensor]) -> str:
    """An SVG: a table of cells for each layer, darker for a larger share, entropies beside it.

    Args:
        layers: shares [M, N] by title.
    """
    parts: list[str] = []
    left = height = 0
    for title, rows in layers.items():
        drawn, wide = _layer(title, rows)
        parts.append(f'<g transform="translate({left + _GAP // 2} 0)">{drawn}</g>')
        left += wide + _GAP
        height = max(height, _TOP + _CELL * len(rows) + _GAP // 2)
    style = f'font-family="system-ui, sans-serif" font-size="11" fill="{INK}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left} {height}" {style}>'
    return "\n".join(
        [head, f'<rect width="{left}" height="{height}" fill="#ffffff"/>', *parts, "</svg>", ""]
    )


def _layer(title: str, rows: Tensor) -> tuple[str, int]:
    """One table and its width."""
    each = entropies(rows)
    most = math.log(rows.shape[1])
    wide = rows.shape[1] * _CELL
    mean = sum(each) / len(each)
    parts = [
        f'<text y="14">{escape(title)}</text>',
        f'<text y="30" fill="{FADED}">entropy: mean {mean:.2f}, at most {most:.2f}</text>',
    ]
    for m, (row, entropy) in enumerate(zip(rows.tolist(), each, strict=True)):
        y = _TOP + m * _CELL
        for n, share in enumerate(row):
            parts.append(
                f'<rect x="{n * _CELL}" y="{y}" width="{_CELL - 1}" height="{_CELL - 1}" '
                f'fill="{LINE["student"]}" fill-opacity="{share:.3f}" stroke="{FADED}" '
                f'stroke-width="0.5"><title>{m} of {n}: {share:.3f}</title></rect>'
            )
        parts.append(f'<text x="{wide + 6}" y="{y + 12}">{entropy:.2f}</text>')
    return "\n".join(parts), max(wide + _SIDE, 7 * len(title), 180)


def main() -> int:
    """Draws what was asked for."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", default="distilled", help="alone or distilled")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    asked = parser.parse_args()
    layers = rows_of(trained(asked.spec, asked.run, asked.name, asked.seed))
    if not layers:
        parser.error(f"the student of {asked.spec} has no module called log_rows")
    asked.out.write_text(picture(layers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
