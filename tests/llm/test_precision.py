"""Frozen language models in fewer bits: their values stay near, and the report says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kdgraph
from tests.llm.tiny import batch, logits_only, pair

# of the largest logit, over two layers: bf16 keeps 8 binary digits, int8 7 for each row of weights
NEAR = {"bf16": 0.02, "int8": 0.05}


def compared(spec: dict[str, Any], precision: str) -> list[str]:
    """Compares every tap with the model itself; what the pass did."""
    if precision == "int8":
        pytest.importorskip("torchao")
    spec["models"]["teacher"]["precision"] = precision
    torch.manual_seed(0)
    step = kdgraph.compile(spec)
    data = batch([8, 5])
    data["there"] = data["keep"].long()
    out = step(**data)
    model: Any = step.report.captures["teacher"].root
    with torch.no_grad():
        full = model(data["tokens"], data["there"], output_hidden_states=True)
    wanted = {"teacher.logits": full.logits}
    if "hidden" in spec["models"]["teacher"]["taps"]:
        wanted["teacher.hidden"] = full.hidden_states[-1]
    for name, value in wanted.items():
        found = out.outputs[name]
        assert found.dtype == torch.float32
        assert not torch.equal(found, value)
        inside = data["keep"]
        error = (found - value)[inside].abs().max() / value[inside].abs().max()
        assert error < NEAR[precision], name
    (record,) = [r for r in step.report.records if r.name == "precision"]
    assert list(record.declined) == []
    return list(record.did)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_logits_of_a_whole_model(family: str, precision: str) -> None:
    (line,) = compared(logits_only(pair(family, attention_mask="there")), precision)
    assert line.startswith(f"teacher: {precision}")
    assert "MB to" in line


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_taps_inside(precision: str) -> None:
    (line,) = compared(pair("bert", attention_mask="there"), precision)
    assert line.startswith(f"teacher: {precision}")
