"""A picture as SVG or PNG, laid out by Graphviz."""

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
_SHARP = "-Gdpi=192"  # two pixels for each of the screen's points


def svg(drawn: Picture) -> str:
    """SVG text, drawn by ``graphviz-pure`` (the ``draw`` extra) or the system's ``dot``.

    Raises:
        KDGraphError: KD430 where neither is there.
    """
    return _drawn(drawn, "-Tsvg", b"<svg").decode()


def png(drawn: Picture) -> bytes:
    """A PNG file, at 192 dots an inch; drawn as ``svg`` is.

    Raises:
        KDGraphError: KD430 where neither program is there.
    """
    return _drawn(drawn, "-Tpng", b"\x89PNG", _SHARP)


def _drawn(drawn: Picture, form: str, sign: bytes, *further: str) -> bytes:
    engine = find_engine()
    if engine is None:
        raise KDGraphError.of(
            "KD430",
            f"drawing {form.removeprefix('-T').upper()} needs Graphviz, which is not installed",
            help="pip install 'kdgraph[draw]'; .html, .dot and .mmd files need nothing",
        )
    command = [engine, *_LIMITS, *further, form]
    result = subprocess.run(command, input=dot(drawn).encode(), capture_output=True, check=False)
    if result.returncode or sign not in result.stdout:
        said = result.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"{engine} drew nothing: {said or f'exit code {result.returncode}'}")
    return result.stdout


def find_engine() -> str | None:
    """The program that lays out; the one of this Python's environment comes first."""
    beside = str(Path(sys.executable).parent)
    return (
        shutil.which("graphviz-pure", path=beside)
        or shutil.which("graphviz-pure")
        or shutil.which("dot")
    )
