"""Every spec that ships: it checks, it compiles, no pass changes its numbers."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.graph.example import letter_sizes
from kdgraph.passes.base import PASSES
from kdgraph.spec.language import Spec

# Those of language models need packages that bring them: tests/llm/test_specs.py.
SPECS = [
    path
    for path in sorted((Path(__file__).parents[1] / "specs").rglob("*.yaml"))
    if path.parent.name != "llm"
]
# The others are a spec that is here with large networks in it. Each pass by itself would take some
# twenty seconds for each, and batch norm of maps of one pixel magnifies what is rounded in float32:
# tests/methods/test_liver_fibrosis.py compares all passes with none, in float64.
SMALL = [path for path in SPECS if path.parent.name != "liver_fibrosis"]


def random_batch(spec: Spec) -> dict[str, Tensor]:
    """A batch of four with plausible values."""
    sizes = {**letter_sizes(spec), str(next(iter(spec.batch.values())).shape[0]): 4}
    values: dict[str, Tensor] = {}
    for name, entry in spec.batch.items():
        shape = [sizes[s] if isinstance(s, str) else s for s in entry.shape]
        dtype = getattr(torch, entry.dtype)
        if dtype.is_floating_point and len(shape) == 1:  # shares of samples, weights of classes
            values[name] = 0.5 + torch.rand(shape, dtype=dtype) / 2
        elif dtype.is_floating_point:
            values[name] = torch.randn(shape, dtype=dtype)
        else:
            values[name] = torch.randint(0, entry.classes or 2, shape, dtype=dtype)
    return values


@pytest.mark.parametrize("path", SPECS, ids=[p.stem for p in SPECS])
def test_it_checks_without_a_word(path: Path) -> None:
    # what papers do although an expert would not is in tests/visual/goldens
    assert [str(d) for d in kdgraph.check(path) if not d.code.startswith("KD6")] == []


def results(step: kdgraph.DistillModule, batch: dict[str, Tensor]) -> dict[str, Any]:
    """Loss, edges and gradients of one step from a fixed random state."""
    torch.manual_seed(1)
    out = step(**batch)
    step.zero_grad()
    out.loss.backward()
    grads = {n: p.grad for n, p in step.named_parameters() if p.grad is not None}
    return {"loss": out.loss, "losses": out.losses, "grads": copy.deepcopy(grads)}


@cache
def with_all_passes(path: Path) -> tuple[dict[str, nn.Module], Any, dict[str, Tensor], Any]:
    """The models of a spec, their state, a batch, and what a step of all passes gives."""
    spec = kdgraph.load_spec(path)
    torch.manual_seed(0)
    asked_for = [name for name, p in PASSES.items() if not p.default]
    step = kdgraph.compile(spec, also=asked_for)
    given = [n for n in spec.networks if spec.models[n].snapshot_of is None]
    models = {n: step.report.captures[n].root for n in given}
    state, batch = copy.deepcopy(step.state_dict()), random_batch(spec)
    return models, state, batch, results(step, batch)


@cache
def course_with_all_passes(path: Path) -> list[tuple[str, dict[str, Tensor], Any]]:
    """Of each stage its name, a batch, and what a step of all passes gives."""
    spec = kdgraph.load_spec(path)
    torch.manual_seed(0)
    step = kdgraph.compile(spec, also=[name for name, p in PASSES.items() if not p.default])
    batch = random_batch(spec)
    assert step.stages is not None
    return [(leg, batch, in_stage(step, leg, batch)) for leg in step.stages.legs()]


def in_stage(step: kdgraph.DistillModule, leg: str, batch: dict[str, Tensor]) -> Any:
    """Moves on to a stage, with the same random numbers for what its actions draw."""
    assert step.stages is not None
    torch.manual_seed(2)
    if leg != step.stages.leg:
        step.set_stage(leg)
    return results(step, batch)


@pytest.mark.parametrize("without", [*PASSES.names(), "all"])
@pytest.mark.parametrize("path", SMALL, ids=[p.stem for p in SMALL])
def test_no_pass_changes_a_number(path: Path, without: str) -> None:
    names = PASSES.names() if without == "all" else [without]
    # a folded batch norm is rounded once where it was rounded at every step; a gradient near 0
    # may be the sum of many terms about 1 over the pixels
    near, tiny = (1e-4, 2e-6) if without in ("freeze", "all") else (1e-5, 2e-6)
    if kdgraph.load_spec(path).stages:  # whose actions change the networks: they are built anew
        torch.manual_seed(0)
        other = kdgraph.compile(path, without=names)
        wanted = course_with_all_passes(path)
        for leg, batch, plain in wanted if without == "all" else wanted[:1]:
            found = in_stage(other, leg, batch)
            torch.testing.assert_close(found, plain, rtol=near, atol=tiny)
        return
    models, state, batch, plain = with_all_passes(path)
    other = kdgraph.compile(path, models=models, without=names)
    other.load_state_dict(state)
    torch.testing.assert_close(results(other, batch), plain, rtol=near, atol=tiny)
