"""``train`` and ``export``: thin, so that one short run shows both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from kdgraph.models.load import build_model

Run = Callable[..., Result]
pytest.importorskip("lightning")
pytest.importorskip("sklearn")

TEXT = """
kdgraph: 1
name: tiny
batch:
  image: {shape: [B, 1, 8, 8]}
  label: {shape: [B], dtype: int64, classes: 10}
models:
  teacher: {source: cifar/resnet8, args: {in_channels: 1, width: 0.25}, taps: {logits: output}}
  student: {source: cifar/resnet8, args: {in_channels: 1, width: 0.25}, taps: {logits: output}}
losses:
  label: {use: cross_entropy, student: student.logits, target: label}
  soft: {use: soft_target, student: student.logits, teacher: teacher.logits}
data: {use: digits, batch_size: 32, limit: 200}
train: {epochs: 2, optimizer: {use: SGD, lr: 0.05}}
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train") / "tiny.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def done(run: Run, spec: Path) -> Path:
    """A finished run of two steps."""
    out = spec.parent / "run"
    if not out.exists():
        result = run("train", spec, "-o", out, "--steps", "2", "--device", "cpu")
        assert result.exit_code == 0, result.output
        assert "distilled" in result.stdout
    return out


def plain_output(weights: Path) -> torch.Tensor:
    """What a model of no kdgraph says with these weights."""
    net = build_model("cifar/resnet8", {"in_channels": 1, "width": 0.25}).eval()
    net.load_state_dict(load_file(weights), strict=True)
    with torch.no_grad():
        output: torch.Tensor = net(torch.ones(2, 1, 8, 8))
    return output


def test_train_prints_json(run: Run, spec: Path, tmp_path: Path) -> None:
    result = run(
        "train", spec, "-o", tmp_path / "run", "--steps", "1", "--device", "cpu", "--format", "json"
    )
    assert result.exit_code == 0, result.output
    assert "accuracy" in json.loads(result.stdout)["summary"]["distilled"]


def test_export_of_a_run_and_of_its_checkpoint_agree(
    run: Run, spec: Path, done: Path, tmp_path: Path
) -> None:
    sources = [done, done / "student.safetensors", next(done.rglob("last.ckpt"))]
    outputs = []
    for i, source in enumerate(sources):
        out = tmp_path / f"{i}.safetensors"
        result = run("export", spec, source, "-o", out)
        assert result.exit_code == 0, result.output
        outputs.append(plain_output(out))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_export_of_a_state_dict_of_the_module(run: Run, spec: Path, tmp_path: Path) -> None:
    import kdgraph

    step = kdgraph.compile(spec)
    torch.save(
        {"state_dict": {f"step.{k}": v for k, v in step.state_dict().items()}}, tmp_path / "m.pt"
    )
    result = run("export", spec, tmp_path / "m.pt", "-o", tmp_path / "out.safetensors")
    assert result.exit_code == 0, result.output
    with torch.no_grad():
        expected = step.student.eval()(torch.ones(2, 1, 8, 8))
    assert torch.equal(plain_output(tmp_path / "out.safetensors"), expected)


def test_export_of_a_checkpoint_after_actions(run: Run, spec: Path, tmp_path: Path) -> None:
    """They are done again to a network without values, and folded as when the run saves it."""
    import kdgraph

    staged = tmp_path / "staged.yaml"
    stages = "stages: [{name: a}, {name: b, before: [{use: quantize, modules: student, bits: 3}]}]"
    staged.write_text(f"{spec.read_text()}{stages}\n")
    step = kdgraph.compile(staged)
    step.set_stage("b")
    torch.save({"state_dict": step.state_dict()}, tmp_path / "m.pt")
    step.save_student(tmp_path / "saved.safetensors")
    result = run("export", staged, tmp_path / "m.pt", "-o", tmp_path / "out.safetensors")
    assert result.exit_code == 0, result.output
    one, other = (load_file(tmp_path / f"{n}.safetensors") for n in ("saved", "out"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_export_refuses_what_does_not_fit(run: Run, spec: Path, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    other = ["--set", "models.student.args.width=0.5"]
    for source in (done, next(done.rglob("last.ckpt"))):
        result = run("export", spec, source, "-o", out, *other)
        assert result.exit_code == 1
        assert "KD416" in result.stderr
    (tmp_path / "junk.pt").write_bytes(b"junk")
    assert "KD415" in run("export", spec, tmp_path / "junk.pt", "-o", out).stderr
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    assert "KD416" in run("export", spec, tmp_path / "other.pt", "-o", out).stderr
    (tmp_path / "empty").mkdir()
    assert "KD415" in run("export", spec, tmp_path / "empty", "-o", out).stderr
    assert not out.exists()


OWN_ROWS = """
import torch

class Rows:
    def __len__(self):
        return 8

    def __getitem__(self, i):
        if i == 3:
            raise KeyError("no row 3")
        return {"image": torch.rand(1, 8, 8), "label": torch.tensor(i)}

def both():
    return {"train": Rows(), "val": Rows()}
"""


def test_an_error_in_own_code_is_told_as_such(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_rows.py").write_text(OWN_ROWS)
    monkeypatch.syspath_prepend(tmp_path)
    data = "data={use: python, call: 'own_rows:both', batch_size: 4}"
    (tmp_path / "kd.yaml").write_text(TEXT)
    result = run(
        "train", tmp_path / "kd.yaml", "-o", tmp_path / "run", "--set", data,
        "--trust", "own_rows", "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "error[KD798]: KeyError: 'no row 3'" in result.stderr
    assert f"raised at {tmp_path}/own_rows.py:10, in __getitem__" in " ".join(result.stderr.split())
