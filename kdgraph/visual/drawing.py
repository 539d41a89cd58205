"""The picture of a spec or of a compiled step: a file in any form, or shown in a notebook."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from kdgraph.errors import KDGraphError, near
from kdgraph.runtime.report import Report
from kdgraph.visual.dot import dot
from kdgraph.visual.graphviz import find_engine, png, svg
from kdgraph.visual.html import html
from kdgraph.visual.mermaid import mermaid
from kdgraph.visual.picture import Picture, picture
from kdgraph.visual.scene import scene

# What a suffix stands for; a page shows every stage and unfolds by itself.
FORMS: dict[str, Callable[[Picture], str | bytes] | None] = {
    ".html": None, ".svg": svg, ".png": png, ".dot": dot, ".mmd": mermaid,
}  # fmt: skip
_HEIGHT = 620  # of the frame in a notebook, in pixels


class Drawing:
    """A picture that is made when it is looked at or saved.

    Args:
        reports: gives the report of each stage, one after the other, each time it is called.
        depth: of pictures that cannot be unfolded, as for ``picture``.
    """

    def __init__(self, reports: Callable[[], Iterable[Report]], depth: int = 0) -> None:
        self._reports = reports
        self.depth = depth

    def html(self, *, embedded: bool = False) -> str:
        """The interactive page, in one file that needs no network; ``embedded``: for a frame."""
        return html(scene(self._reports()), embedded=embedded)

    def save(self, path: str | Path) -> Path:
        """Writes the picture in the form that the suffix names; there is no half-written file.

        A form other than ``.html`` shows the first stage.

        Raises:
            KDGraphError: KD431 for a suffix that is no form, KD430 where Graphviz is missing.
        """
        path = Path(path)
        make = form_of(path)
        made = self.html() if make is None else make(self._picture())
        data = made.encode() if isinstance(made, str) else made
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
            part = Path(scratch) / path.name
            part.write_bytes(data)
            part.replace(path)
        return path

    def _picture(self) -> Picture:
        return picture(next(iter(self._reports())), depth=self.depth)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, for notebooks."""
        page = escape(self.html(embedded=True), quote=True)
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts allow-downloads" '
            f'style="width: 100%; height: {_HEIGHT}px; border: 0"></iframe>'
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """The page, and SVG where a viewer shows no page: on GitHub, in print."""
        found = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if find_engine() is not None:
            with suppress(RuntimeError, OSError):  # a Graphviz that fails is no reason for no page
                found["image/svg+xml"] = svg(self._picture())
        return found


def form_of(path: Path) -> Callable[[Picture], str | bytes] | None:
    """What makes a file of that suffix; None for the page.

    Raises:
        KDGraphError: KD431 where nothing does.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMS:
        raise KDGraphError.of(
            "KD431",
            f"{path.name!r} does not say in which form to draw",
            help=near(suffix, FORMS) or f"let it end in one of {', '.join(FORMS)}",
        )
    return FORMS[suffix]


def bundle(report: Report) -> dict[str, Any]:
    """What a notebook shows of a compiled step."""
    return Drawing(lambda: [report])._repr_mimebundle_()
