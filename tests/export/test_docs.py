"""The Python of docs/export.md runs, on files as its commands write them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import kdgraph
from kdgraph.models.load import build_model
from kdgraph.models.weights import save_weights

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    spec = kdgraph.load_spec(ROOT / "specs" / "digits.yaml")
    student = spec.models["student"]
    assert student.source is not None
    save_weights(build_model(student.source, student.args), tmp_path / "w.safetensors")
    for file in re.findall(r"^kdgraph export .* -o (\S+)$", PAGE, re.M):
        kdgraph.export(spec, tmp_path / "w.safetensors", file)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    known: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/export.md", "exec"), known)
    printed = [re.findall(r"\d+", line) for line in capsys.readouterr().out.splitlines()]
    assert len(printed) == 3
    assert printed[0] == printed[1] == printed[2]
