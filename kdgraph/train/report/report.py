"""All runs of one command as ``report.json`` and ``report.html``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdgraph.runtime.report import Report as Compiled
from kdgraph.spec.language import Spec
from kdgraph.train.keep import write_json, write_text
from kdgraph.train.report.facts import LIBRARIES, machine
from kdgraph.train.report.page import embedded, page
from kdgraph.train.report.record import finite
from kdgraph.train.report.spec_text import as_written, document, edges_of
from kdgraph.train.result import Result
from kdgraph.visual.html import html
from kdgraph.visual.manifest import versions
from kdgraph.visual.scene import scene

VERSION = 1
JSON, HTML = "report.json", "report.html"


class Report:
    """Collects the figures of runs and writes them, each time whole or not at all.

    Args:
        folder: where both files go.
        written: the spec as it was read, before teachers had weights or a book their place.
        data: the data in one line.
        booked: batch entries that a book gives.
    """

    def __init__(
        self, folder: Path, written: Spec, data: str, booked: frozenset[str] = frozenset()
    ) -> None:
        self.folder, self.booked = folder, booked
        self._written = written
        self._runs: dict[tuple[str, int], dict[str, Any]] = {}
        self._facts: dict[str, Any] = {
            "kdgraph_report": VERSION,
            "name": written.name,
            "description": written.description,
            "data": data,
            "versions": versions(LIBRARIES),
            "machine": {},
            "edges": edges_of(written),
        }
        self._end: dict[str, Any] = {"table": None}
        self._documents: list[str] = []
        self._scene: dict[str, Any] = {}
        self._graph = embedded("")

    def look(self, plan: Compiled) -> None:
        """Takes what the spec, or its next stage or phase, compiles to."""
        plan = as_written(plan, self._written)
        self._documents.append(document(plan))
        try:
            found = scene([plan])
            self._scene = {**found, "legs": [*self._scene.get("legs", []), *found["legs"]]}
            self._graph = embedded(html(self._scene, embedded=True))
        except Exception as error:  # a fault in a picture is no reason to lose a training
            self._facts["graph"] = f"could not be drawn: {type(error).__name__}: {error}"

    @property
    def looked(self) -> bool:
        """Whether it knows what the spec compiles to."""
        return bool(self._documents)

    def put(self, name: str, seed: int, figures: dict[str, Any]) -> None:
        """Replaces what is known of a run.

        Args:
            name: what the run is called.
            seed: its seed.
            figures: ``Watch.as_dict`` and what else is known of it.
        """
        self._runs[name, seed] = {"name": name, "seed": seed, **finite(figures)}

    def computes_on(self, device: str) -> None:
        """Notes the device of the training."""
        self._facts["machine"] = machine(device)

    def finish(self, result: Result) -> None:
        """Adds the final table, and writes."""
        rows = {"student alone": result.alone, "distilled": result.runs}
        groups = [(t.name, [t]) for t in result.teachers] + [(n, r) for n, r in rows.items() if r]
        self._end["table"] = {
            "metrics": list(result.runs[0].metrics),
            "rows": [
                {
                    "name": name,
                    "figures": {m: vars(s) for m, s in result.summary(runs).items()},
                    "parameters": runs[0].parameters,
                    "latency": runs[0].latency,
                    "steps": runs[0].steps,
                    "seconds": sum(r.seconds for r in runs) / len(runs),
                    "seeds": len(runs),
                }
                for name, runs in groups
            ],
            "notes": result.notes(),
        }
        self.write()

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON: what is no finite number is None."""
        spec = "\n---\n".join(self._documents) or None
        ends = finite(self._end)
        return {**self._facts, **ends, "spec": spec, "runs": list(self._runs.values())}

    def write(self) -> None:
        """Writes both files."""
        found = self.as_dict()
        write_json(self.folder / JSON, found)
        write_text(self.folder / HTML, page(found, self._graph))
