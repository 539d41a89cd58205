"""Every method against its student alone and ordinary distillation, over several seeds.

    python benchmarks/run_methods.py [NAME ...] [--seeds 3] [--jobs 2] [--resume]

Trains ``specs/methods/NAME.yaml`` (with the student alone beside it) and then
``benchmarks/methods/NAME_plain.yaml`` by the command ``kdgraph train``, with the same teachers,
and writes ``benchmarks/results/methods.json`` and ``docs/methods/results.md``. Results of methods
that are not named stay as they were.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from rich.console import Console

# where PYTHONSAFEPATH is set, the folder of a script is not on the path
sys.path.append(str(Path(__file__).parent))

import methods_page
from versus.machine import told

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "methods.json"
_progress = Console(stderr=True, highlight=False)


def names() -> list[str]:
    """The methods that ship."""
    return sorted(path.stem for path in (ROOT / "specs" / "methods").glob("*.yaml"))


def compared(name: str, runs: Path, seeds: int, *, resume: bool, threads: int) -> dict[str, Any]:
    """Trains one method, its student alone and plain distillation; returns their figures."""
    own, plain = runs / name, runs / f"{name}_plain"
    asked = ["--seeds", str(seeds), *(["--resume"] if resume else [])]
    spec = ROOT / "specs" / "methods" / f"{name}.yaml"
    found, first = _train(spec, own, [*asked, "--compare"], threads)
    for record in own.glob("*/run.json"):  # teachers, known again by their fingerprints
        shutil.copytree(record.parent, plain / record.parent.name, dirs_exist_ok=True)
    baseline = ROOT / "benchmarks" / "methods" / f"{name}_plain.yaml"
    other, second = _train(baseline, plain, asked, threads)
    trained = [*found["runs"], *other["runs"]]
    return {
        "method": name,
        "data": found["data"],
        "seeds": seeds,
        "teachers": {
            r["name"]: {"metrics": r["metrics"], "parameters": r["parameters"]}
            for r in found["runs"]
            if r["name"] not in ("alone", "distilled")
        },
        "students": {
            "alone": _of(found, "alone"),
            "plain": _of(other, "distilled"),
            "method": _of(found, "distilled"),
        },
        "parameters": next(r["parameters"] for r in trained if r["name"] == "distilled"),
        "steps": next(r["steps"] for r in trained if r["name"] == "distilled"),
        "processor_minutes": round((first + second) / 60, 2),
    }


def _train(spec: Path, out: Path, options: list[str], threads: int) -> tuple[dict[str, Any], float]:
    """What the command prints, and the seconds of processor time it took."""
    command = [sys.executable, "-P", "-m", "kdgraph", "train", str(spec), "-o", str(out)]
    with tempfile.TemporaryFile("w+") as told_by, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [*command, *options, "--device", "cpu", "--format", "json"],
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
            stdout=told_by,
            stderr=said,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        told_by.seek(0)
        said.seek(0)
        if process.returncode:
            raise RuntimeError(f"{spec.name}: {said.read()[-2000:]}")
        return json.load(told_by), used.ru_utime + used.ru_stime


def _of(result: dict[str, Any], kind: str) -> dict[str, list[float]]:
    """Each metric's values, in the order of the seeds."""
    runs = [r for r in result["runs"] if r["name"] == kind]
    return {metric: [r["metrics"][metric] for r in runs] for metric in runs[0]["metrics"]}


def _keep(row: dict[str, Any]) -> None:
    """Puts a method's figures among those that are known, and rewrites the page."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = {r["method"]: r for r in [*known, row]}
    RESULTS.write_text(json.dumps([rows[name] for name in sorted(rows)], indent=1) + "\n")
    methods_page.write(RESULTS)


def main() -> int:
    """Trains what was asked for and rewrites the results."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all that ship")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="methods at a time")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "methods")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier call ended")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(names()):
        parser.error(f"no method {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    threads = max(1, (os.cpu_count() or 1) // asked.jobs)
    writing = Lock()

    def one(name: str) -> None:
        _progress.print(f"{name} ...")
        row = compared(name, asked.runs, asked.seeds, resume=asked.resume, threads=threads)
        row["environment"] = told(torch.device("cpu")) | {"threads": threads}
        with writing:
            _keep(row)
        _progress.print(f"{name}: {row['processor_minutes']} minutes of processor time")

    with ThreadPoolExecutor(asked.jobs) as pool:
        list(pool.map(one, asked.names or names()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
