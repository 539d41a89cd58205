"""The folder that ``kdgraph compile`` writes."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from kdgraph.errors import KDGraphError
from kdgraph.runtime.report import Report
from kdgraph.visual.html import html
from kdgraph.visual.lock import lock
from kdgraph.visual.manifest import manifest
from kdgraph.visual.python import python
from kdgraph.visual.scene import scene

FILES = ("graph.py", "graph.html", "manifest.json", "spec.lock.yaml")


def write_build(report: Report, folder: Path) -> list[Path]:
    """Writes ``graph.py``, ``graph.html``, ``manifest.json``, ``spec.lock.yaml``: all or none.

    A folder written by an earlier call is replaced.

    Returns:
        The files.

    Raises:
        KDGraphError: KD720 where the folder holds anything else.
    """
    _check_ours(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "new"
        made.mkdir()
        (made / "graph.py").write_text(python(report), encoding="utf-8")
        (made / "graph.html").write_text(html(scene([report])), encoding="utf-8")
        facts = json.dumps(manifest(report), indent=1, ensure_ascii=False)
        (made / "manifest.json").write_text(facts + "\n", encoding="utf-8")
        head = f"# {report.spec.name}, with everything resolved. Written by kdgraph compile.\n"
        (made / "spec.lock.yaml").write_text(head + lock(report, folder), encoding="utf-8")
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        made.rename(folder)
    return [folder / name for name in FILES]


def _check_ours(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise KDGraphError.of("KD720", f"{folder} is a file", help="name a folder to write")
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)  # left by an import of graph.py
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in FILES)
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise KDGraphError.of(
            "KD720",
            f"{folder} holds files that kdgraph compile did not write: {shown}",
            help="name a new folder, or empty this one",
        )
