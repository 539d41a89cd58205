"""The command prints what ``kdgraph.export`` tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file

import kdgraph
from kdgraph.cli.main import main
from kdgraph.models.load import build_model
from kdgraph.models.weights import save_weights

ARGS = {"in_channels": 1, "width": 0.25}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spec and the weights of its student."""
    model = {"source": "cifar/resnet8", "args": ARGS, "taps": {"logits": "output"}}
    spec = {
        "kdgraph": 1,
        "name": "tiny",
        "batch": {"image": {"shape": ["B", 1, 8, 8]}},
        "models": {"teacher": model, "student": model},
        "losses": {
            "l": {"use": "logit_mse", "student": "student.logits", "teacher": "teacher.logits"}
        },
    }
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(spec))
    torch.manual_seed(0)
    save_weights(build_model("cifar/resnet8", ARGS), tmp_path / "in.safetensors")
    return tmp_path


def export(folder: Path, out: str, *more: str) -> Result:
    paths = [str(folder / name) for name in ("kd.yaml", "in.safetensors")]
    return CliRunner().invoke(main, ["export", *paths, "-o", str(folder / out), *more])


def test_text(folder: Path) -> None:
    result = export(folder, "out.pt2")
    assert result.exit_code == 0, result.output
    assert "cifar/resnet8, 5,142 parameters" in result.stdout
    assert "x [B, 1, 8, 8] float32" in result.stdout
    assert "output [B, 10] float32" in result.stdout
    assert "B is free" in result.stdout
    assert "by torch.export.load, at B=1 and B=5" in result.stdout
    assert "largest difference" in result.stdout


def test_json(folder: Path) -> None:
    result = export(folder, "out.safetensors", "--format", "json")
    told = json.loads(result.stdout)
    assert told["path"] == str(folder / "out.safetensors")
    assert told["checkpoint"] == str(folder / "in.safetensors")
    assert told["format"] == ".safetensors"
    assert told["parameters"] == 5142
    assert told["bytes"] == (folder / "out.safetensors").stat().st_size
    assert told["inputs"] == [{"name": "x", "shape": ["B", 1, 8, 8], "dtype": "float32"}]
    assert told["outputs"] == [{"name": "output", "shape": ["B", 10], "dtype": "float32"}]
    assert told["free"] == ["B"]
    assert told["checked"] == [{"B": 1}, {"B": 5}]
    assert told["difference"] == told["relative"] == 0


def test_weights_in_a_pt_file(folder: Path) -> None:
    """As a loop of one's own saves them."""
    student = build_model("cifar/resnet8", ARGS)
    torch.save({"model": student.state_dict(), "epoch": 3}, folder / "in.pt")
    told = kdgraph.export(folder / "kd.yaml", folder / "in.pt", folder / "out.safetensors")
    assert told.relative == 0
    written = load_file(folder / "out.safetensors")
    assert torch.equal(written["fc.weight"], student.get_parameter("fc.weight"))


def test_mistakes(folder: Path) -> None:
    wrong = export(folder, "out.pt")
    assert wrong.exit_code == 1
    assert "KD780" in wrong.stderr
    assert "did you mean '.pt2'?" in wrong.stderr
    other = export(folder, "out.pt2", "--set", "models.student.args.width=0.5")
    assert other.exit_code == 1
    assert "KD416" in other.stderr
    assert not (folder / "out.pt2").exists()
