"""The benchmark of the kernels runs, at sizes without meaning, and times nothing that is wrong."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernels.py"
CPU = torch.device("cpu")


@pytest.fixture(scope="module", name="benchmark")
def _benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_of_kernels", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_runs_in_the_interpreter(tmp_path: Path) -> None:
    cases = ["soft_target-8192-128256-bf16-tau2", "sparse", "linear", "channel_wise-16", "relation"]
    command = [sys.executable, SCRIPT, "--device=cpu", "--tiny", "--format=json"]
    command += [f"--case={name}" for name in cases]
    done = subprocess.run(
        [*command, "--output", tmp_path], capture_output=True, text=True, check=True
    )
    (path,) = tmp_path.iterdir()
    told = json.loads(path.read_text())
    assert told["cases"] == json.loads(done.stdout)
    assert len(told["cases"]) == len(cases)
    for row in told["cases"]:
        assert row["right"] is True
        assert row["ms"] > 0
        assert row["others"]["PyTorch"]["ratio"] > 0


def test_every_kernel_has_a_case(benchmark: ModuleType) -> None:
    from kdgraph.kernels.base import KERNELS

    assert {case.kernel for case in benchmark.cases()} >= set(KERNELS.names())


def case_of(benchmark: ModuleType, wrong: float) -> object:
    """One that needs no kernel: PyTorch, times a number."""
    case = next(c for c in benchmark.cases(tiny=True) if c.kernel == "softmax_rows")
    return dataclasses.replace(case, ours=lambda **inputs: wrong * case.plain(**inputs))


def test_what_is_wrong_is_not_timed(benchmark: ModuleType) -> None:
    top = benchmark.Ceilings(1e12, 1e12)
    end = time.monotonic() + 60
    row = benchmark.run(case_of(benchmark, 1.001), CPU, top, end)
    assert row["right"] is False
    assert "ms" not in row
    assert "WRONG" in benchmark.sentence(row)
    row = benchmark.run(case_of(benchmark, float("nan")), CPU, top, end)
    assert row["right"] is False


def test_others_that_compute_something_else_are_not_timed(benchmark: ModuleType) -> None:
    case = case_of(benchmark, 1.0)
    (sides,) = benchmark.draws(case, CPU, few=True)
    row = benchmark.other(case, lambda **inputs: 2 * case.plain(**inputs), [sides], 1.0, 1.0)
    assert "another value" in row["note"]


def test_after_the_last_minute_nothing_is_run(benchmark: ModuleType) -> None:
    row = benchmark.run(case_of(benchmark, 1.0), CPU, benchmark.Ceilings(1, 1), 0.0)
    assert benchmark.sentence(row).endswith("no time was left")


def test_floors() -> None:
    from versus.device import Ceilings
    from versus.kernel_cases import cases

    top = Ceilings(4.3e12, 790e12)
    floors = {c.name: top.floor_ms(c) for c in cases()}
    # 8192 * 32000 * 6 bytes, and 8 * 8192 * 128256 * 4096 operations
    assert floors["soft_target-8192-32000-bf16-tau2"] == pytest.approx(0.3658, rel=1e-3)
    assert floors["linear_soft_target-8192-128256-4096-bf16"] == pytest.approx(43.58, rel=1e-3)
