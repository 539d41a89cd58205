"""``docs/methods/results.md`` from ``benchmarks/results/methods.json``."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "methods" / "results.md"
LESS_IS_BETTER = {"calibration_error", "char_error_rate", "perplexity", "word_error_rate"}
_HEAD = """# Methods: results

Each method's shipped spec as `make methods` trains it, beside two others for the same number of
epochs, from the same initial values, in the same order of rows: the **student alone**, on the label
edges of the spec, their weights divided by their sum, and nothing else; and **plain**, the file
`benchmarks/methods/NAME_plain.yaml`: ordinary distillation of the same teacher, but label smoothing
for `tfkd_reg` and `adaptive_smoothing`. Figures are of the test part, mean and standard deviation
over the seeds. The last column is the mean difference of method and plain, seed by seed, with its
standard error: within about two of those it says nothing.

What is not equal: methods that call the student twice (`ccd_jda`, `cons_kd`) do twice the work in a
step. The student alone keeps the data and the label edges as they are: for `liver_fibrosis` that is
with MixUp, weights of classes and smoothing. It has no losses on features, as `cskd` has. Of a
method with stages it trains in one go, for as many epochs as the student is trained in all of them,
in batches of their size where they agree on one, and with the optimiser of `train`.

These are short runs of small networks on small data, made to show that each method runs and what
it does there. They are no ranking of methods, and no replication of any paper's table. The specs in
`specs/methods/liver_fibrosis/`, with the networks of the paper, take too long for it and are not
among them.
"""


def write(results: Path) -> None:
    """Rewrites the page."""
    PAGE.write_text(page(json.loads(results.read_text())))


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The whole page."""
    lines = [
        _HEAD,
        "| method | metric | teacher | student alone | plain | method | method - plain |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines += [line(row, metric) for metric in row["students"]["method"]]
    minutes = sum(row["processor_minutes"] for row in rows)
    lines += ["", "## How each was run", ""]
    lines += [f"All took {minutes:.0f} minutes of processor time.", ""]
    lines += [f"- {told(row)}" for row in rows]
    return "\n".join(lines) + "\n"


def line(row: dict[str, Any], metric: str) -> str:
    """One metric of one method."""
    students = {kind: values[metric] for kind, values in row["students"].items()}
    teachers = [t["metrics"].get(metric) for t in row["teachers"].values()]
    shown = ", ".join(f"{t:.4f}" for t in teachers if t is not None) or "none"
    name = f"[{row['method']}]({row['method']}.md)"
    title = f"{metric} (less is better)" if metric in LESS_IS_BETTER else metric
    cells = [summary(students[kind]) for kind in ("alone", "plain", "method")]
    return f"| {' | '.join([name, title, shown, *cells, difference(students)])} |"


def summary(values: Sequence[float]) -> str:
    """Mean and sample standard deviation."""
    if len(values) < 2:
        return f"{values[0]:.4f}"
    return f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}"


def difference(students: dict[str, Sequence[float]]) -> str:
    """Method minus plain, paired by seed, with the standard error of its mean."""
    gaps = [m - p for m, p in zip(students["method"], students["plain"], strict=True)]
    if len(gaps) < 2:
        return f"{gaps[0]:+.4f}"
    return f"{statistics.fmean(gaps):+.4f} (SE {statistics.stdev(gaps) / math.sqrt(len(gaps)):.4f})"


def told(row: dict[str, Any]) -> str:
    """What a row's figures depend on, in a sentence."""
    facts = row["environment"]
    teachers = ", ".join(f"{n} {t['parameters']:,}" for n, t in row["teachers"].items())
    return (
        f"`{row['method']}`: {row['data']}; student {row['parameters']:,} parameters"
        + (f", {teachers}" if teachers else "")
        + f"; {row['steps']:,} steps, {row['seeds']} seeds, {row['processor_minutes']} minutes of "
        f"processor time in all; "
        f"{facts['hardware']}, {facts['threads']} of {facts['cores']} cores, "
        f"torch {facts['torch']}, {facts['date'][:10]}."
    )
