"""A picture as SVG, laid out by Graphviz."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from kdgraph.errors import KDGraphError
from kdgraph.visual.dot import dot
from kdgraph.visual.picture import Picture

# Beyond a few hundred boxes the search for a better order costs minutes and shows no more.
_LIMITS = ("-Gnslimit=1", "-Gnslimit1=1", "-Gmclimit=0.3")


def svg(drawn: Picture) -> str:
    """SVG text, drawn by ``graphviz-pure`` (the ``draw`` extra) or the system's ``dot``.

    Raises:
        KDGraphError: KD430 where neither is there.
    """
    engine = find_engine()
    if engine is None:
        raise KDGraphError.of(
            "KD430",
            "drawing SVG needs Graphviz, which is not installed",
            help="pip install 'kdgraph[draw]'; .dot and .mmd files need nothing",
        )
    command = [engine, *_LIMITS, "-Tsvg"]
    result = subprocess.run(
        command, input=dot(drawn), capture_output=True, encoding="utf-8", check=False
    )
    if result.returncode or "<svg" not in result.stdout:
        said = result.stderr.strip() or f"exit code {result.returncode}"
        raise RuntimeError(f"{engine} drew nothing: {said}")
    return result.stdout


def find_engine() -> str | None:
    """The program that lays out; the one of this Python's environment comes first."""
    beside = str(Path(sys.executable).parent)
    return (
        shutil.which("graphviz-pure", path=beside)
        or shutil.which("graphviz-pure")
        or shutil.which("dot")
    )
