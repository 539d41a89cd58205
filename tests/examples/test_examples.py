"""Each example runs, on one process and on several, and all of them train the same student."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

ROOT = Path(__file__).parents[2]
SCRIPTS = {
    "bare_loop", "lightning_trainer", "transformers_trainer", "accelerate_loop", "fsdp2_loop",
}  # fmt: skip
STEPS = ["--steps", "9", "--epochs", "2"]
# name: script, further arguments, processes (0: started by python alone)
JOBS: dict[str, tuple[str, list[str], int]] = {
    "bare_1": ("bare_loop", STEPS, 0),
    "bare_2": ("bare_loop", STEPS, 2),
    "lightning_1": ("lightning_trainer", STEPS, 0),
    "lightning_2": ("lightning_trainer", [*STEPS, "--devices", "2"], 2),
    "transformers_1": ("transformers_trainer", STEPS, 0),
    "transformers_2": ("transformers_trainer", STEPS, 2),
    "accelerate_1": ("accelerate_loop", STEPS, 0),
    "accelerate_2": ("accelerate_loop", STEPS, 2),
    "fsdp2_2": ("fsdp2_loop", STEPS, 2),
    "fsdp2_4": ("fsdp2_loop", ["--steps", "4", "--epochs", "1", "--checkpoint", "state"], 4),
    "fsdp2_1_goes_on": ("fsdp2_loop", [*STEPS, "--resume", "state"], 1),
    "fsdp2_2_bf16": ("fsdp2_loop", [*STEPS, "--bf16"], 2),
}
WHOLE = [name for name in JOBS if name not in ("fsdp2_4", "fsdp2_2_bf16")]


class Runs(NamedTuple):
    """Where the examples were run, what became of each, and what they share."""

    folder: Path
    status: dict[str, int]
    digits: ModuleType

    def printed(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text()

    def student(self, name: str) -> dict[str, torch.Tensor]:
        assert self.status[name] == 0, self.printed(name)[-3000:]
        return load_file(self.folder / f"{name}.safetensors")

    def net(self, weights: dict[str, torch.Tensor] | None = None) -> torch.nn.Module:
        plain: torch.nn.Module = self.digits.pair()["student"]
        if weights is not None:
            plain.load_state_dict(weights)
        return plain


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All examples, run once, from another folder than their own."""
    copied = tmp_path_factory.mktemp("copied") / "examples"
    shutil.copytree(ROOT / "examples", copied, ignore=shutil.ignore_patterns("*.safetensors"))
    folder = tmp_path_factory.mktemp("elsewhere")
    jobs = [["teacher", str(copied / "teacher.py"), ["--epochs", "2"], 0]]
    for name, (script, arguments, world) in JOBS.items():
        save = ["--save", f"{name}.safetensors"]
        jobs.append([name, str(copied / f"{script}.py"), [*arguments, *save], world])
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("launcher.py")), json.dumps(jobs)],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    place = importlib.util.spec_from_file_location("digits_of_examples", copied / "digits.py")
    assert place is not None
    assert place.loader is not None
    digits = importlib.util.module_from_spec(place)
    place.loader.exec_module(digits)
    return Runs(folder, json.loads(done.stdout), digits)


@pytest.mark.parametrize("name", JOBS)
def test_an_example_trains_a_plain_student(name: str, runs: Runs) -> None:
    trained = runs.net(runs.student(name))
    image, label = runs.digits.images()[0].tensors
    with torch.no_grad():
        before, after = (cross_entropy(n(image), label) for n in (runs.net(), trained))
    assert after < before - 0.02
    shown = re.search(r"accuracy ([\d.]+) -> ([\d.]+)", runs.printed(name))
    assert shown, runs.printed(name)
    found = [float(x) for x in shown.groups()]
    assert found == [
        pytest.approx(runs.digits.accuracy(n), abs=3e-3) for n in (runs.net(), trained)
    ]


@pytest.mark.parametrize("name", WHOLE[1:])
def test_every_trainer_and_number_of_processes_gives_the_same_student(
    name: str, runs: Runs
) -> None:
    alone, found = runs.student("bare_1"), runs.student(name)
    assert found.keys() == alone.keys()
    for key, value in alone.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-5, msg=key)


def test_the_networks_have_the_size_that_is_told(runs: Runs) -> None:
    sizes = [sum(p.numel() for p in net.parameters()) for net in runs.digits.pair().values()]
    assert all(f"{size:,}" in runs.digits.pair.__doc__ for size in sizes)


def test_blocks_in_bf16_compute_in_bf16(runs: Runs) -> None:
    alone, found = runs.student("bare_1"), runs.student("fsdp2_2_bf16")
    apart = max(float((found[key] - alone[key]).abs().max()) for key in alone)
    assert 1e-5 < apart < 1e-2


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_at_most_five_lines_are_there_for_kdgraph(script: str) -> None:
    text = (ROOT / "examples" / f"{script}.py").read_text(encoding="utf-8")
    code = text.partition('"""\n')[2] if text.startswith('"""') else text
    lines = code.splitlines()
    marked = [line for line in lines if line.endswith("  # kdgraph")]
    needed = [line for line in lines if re.search(r"kdgraph|Distillation|step\.s\w+\(", line)]
    assert 2 <= len(marked) <= 5
    assert set(needed) == set(marked)


def test_there_is_no_other_example() -> None:
    files = {file.stem for file in (ROOT / "examples").glob("*.py")}
    assert files == SCRIPTS | {"digits", "teacher"}


def test_an_example_without_its_teacher_says_what_to_do(tmp_path: Path) -> None:
    for name in ("digits.py", "digits.yaml", "bare_loop.py"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}  # as a user has it
    script = str(tmp_path / "bare_loop.py")
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "there is no teacher yet: python" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_the_page_shows_the_lines_that_are_there_for_kdgraph(script: str) -> None:
    page = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
    block = re.search(rf"^`examples/{script}\.py`:\n\n```python\n(.*?)```$", page, re.M | re.S)
    assert block, script
    text = (ROOT / "examples" / f"{script}.py").read_text(encoding="utf-8")
    marked = [line for line in text.splitlines() if line.endswith("  # kdgraph")]
    shown = [line for line in block[1].splitlines() if line]  # the formatter's blank lines
    assert shown == [line.strip().removesuffix("  # kdgraph") for line in marked]
