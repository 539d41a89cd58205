"""Text made to hurt: one clear error, within 2 s and 500 MB, in another process."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

READ = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (500 << 20, 500 << 20))
from kdgraph.errors import SpecError
from kdgraph.spec.read import load_spec
for file in sys.argv[1:]:
    start, codes = time.process_time(), []
    try:
        load_spec(file)
    except SpecError as error:
        codes = [d.code for d in error.diagnostics]
    print(json.dumps([codes, time.process_time() - start]))
"""


def bomb(levels: int = 30, width: int = 10) -> str:
    names = [f"a{i}" for i in range(levels)]
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    for below, name in itertools.pairwise(names):
        lines.append(f"{name}: &{name} [{', '.join([f'*{below}'] * width)}]")
    return "\n".join(lines)


HOSTILE = {
    "alias bomb": (bomb(), "KD102"),
    "alias bomb of mappings": (bomb().replace("[x", "[{k: x}"), "KD102"),
    "10,000 levels of lists": ("a: " + "[" * 10_000, "KD102"),
    "10,000 levels of mappings": ("{a: " * 10_000, "KD102"),
    "400 levels of indentation": (
        "".join(f"{' ' * i}a:\n" for i in range(400)),
        "KD102",
    ),
    "10,000 dashes": ("- " * 10_000, "KD102"),
    "10 MB": ("a: " + "x" * 10_000_000, "KD102"),
    "10,000 digits": ("a: " + "9" * 10_000, "KD107"),
    "a float of 10,000 digits": ("a: 1." + "9" * 10_000 + "e400", "KD107"),
    "50,000 keys alike": ("a: 1\n" * 20_000, "KD102"),
    "50,000 anchors": ("a:\n" + "".join(f"- &a{i} 1\n" for i in range(20_001)), "KD102"),
    "open quotes": ("a: '" + "x\n" * 100_000, "KD103"),
    "a key of 200,000 characters": ("x" * 200_000 + ": 1", "KD103"),
    "a quoted key of 200,000 characters": ("? '" + "x" * 200_000 + "'\n: 1", "KD111"),
    "every line a comment": ("#\n" * 120_000, "KD106"),
    "a long chain of signals": (
        "kdgraph: 1\nname: x\nbatch: {i: {shape: [B]}}\nmodels: {student: {}}\n"
        "losses: {}\nsignals:\n"
        + "".join(f"  s{i}: {{use: detach, of: s{i + 1}}}\n" for i in range(3_300)),
        "KD113",
    ),
    "a long circle of signals": (
        "kdgraph: 1\nname: x\nbatch: {i: {shape: [B]}}\nmodels: {student: {}}\n"
        "losses: {a: {use: soft_target, student: s0, teacher: s0}}\nsignals:\n"
        + "".join(f"  s{i}: {{use: detach, of: s{(i + 1) % 3_300}}}\n" for i in range(3_300)),
        "KD204",
    ),
    "3,000 mistakes": (
        "kdgraph: 1\nname: x\nbatch: {i: {shape: [B]}}\nmodels: {student: {}}\nlosses:\n"
        + "".join(f"  l{i}: {{us: 1}}\n" for i in range(3_000)),
        "KD119",
    ),
    "3,000 names that are not there": (
        "kdgraph: 1\nname: x\nbatch: {i: {shape: [B]}}\nmodels: {student: {}}\nsignals:\n"
        + "".join(f"  s{i}: {{use: detach, of: t{i}}}\n" for i in range(3_000))
        + "losses: {a: {use: soft_target, student: s0, teacher: s0}}\n",
        "KD119",
    ),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], float]]:
    """The codes and the CPU seconds of each text."""
    folder = tmp_path_factory.mktemp("hostile")
    files = [folder / f"{number}.yaml" for number in range(len(HOSTILE))]
    for file, (text, _) in zip(files, HOSTILE.values(), strict=True):
        file.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, files)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(HOSTILE, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text(name: str, outcomes: dict[str, tuple[list[str], float]]) -> None:
    codes, seconds = outcomes[name]
    assert HOSTILE[name][1] in codes
    assert len(codes) <= 102
    assert seconds < 2


def test_reading_needs_no_torch(tmp_path: Path, good: str) -> None:
    """All of the vocabulary is known, and nothing heavy was imported for it."""
    file = tmp_path / "spec.yaml"
    file.write_text(good, encoding="utf-8")
    program = """
import sys
from kdgraph.spec.entry import LOSSES
from kdgraph.spec.read import load_spec
assert load_spec(sys.argv[1]).name == "good"
assert len(LOSSES.names()) > 3
print(*sorted({"torch", "timm", "transformers", "numpy", "lightning"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
