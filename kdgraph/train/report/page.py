"""The report as one HTML file that asks nobody for anything."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

POINTS = 2000
"""Points of a curve that the page draws at most; ``report.json`` has all of them."""

# No scheme, no host: whatever the page holds, it cannot ask for anything.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "worker-src blob:; img-src data: blob:; base-uri 'none'; form-action 'none'"
)
_SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main id="page"><noscript>This report draws itself with JavaScript.</noscript></main>
<script type="application/json" id="figures">{figures}</script>
<script type="application/json" id="graph">{graph}</script>
<script>{library}</script>
<script>{code}</script>
</body>
</html>
"""


def page(figures: Mapping[str, Any], graph: str) -> str:
    """The whole page.

    Args:
        figures: ``Report.as_dict``.
        graph: the page of the graph, ``embedded``, which a frame shows.
    """
    runs = [{**run, "curves": _thinned(run["curves"])} for run in figures["runs"]]
    return _SHELL.format(
        policy=html.escape(_POLICY),
        title=html.escape(f"{figures['name']}, training report"),
        style=_asset("uPlot.min.css") + _asset("page.css"),
        library=_asset("uPlot.iife.min.js"),
        code=_asset("page.js"),
        figures=embedded({**figures, "runs": runs}),
        graph=graph,
    )


def embedded(value: Any) -> str:
    """JSON that can stand in a script element: no text in it can end the element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _thinned(curves: Mapping[str, Any]) -> dict[str, Any]:
    """Every k-th point of long curves, and the last."""
    found = {}
    for name, curve in curves.items():
        count = len(curve["steps"])
        every = -(-count // POINTS)
        chosen = sorted({*range(0, count, max(1, every)), count - 1}) if count else []
        found[name] = {key: [curve[key][i] for i in chosen] for key in ("steps", "values")}
    return found


def _asset(name: str) -> str:
    return files("kdgraph.train.report").joinpath("assets", name).read_text(encoding="utf-8")
