"""The commands that print or write what is known: explain, draw, compile, list, schema, taps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import Result

from kdgraph.cli._costs import flops, size

Run = Callable[..., Result]


def test_explain(run: Run, spec: Path) -> None:
    result = run("explain", spec)
    assert result.exit_code == 0
    for words in ("cifar/resnet14", "frozen", "conv1x1", "[B, 16, 8, 8]", "prune", "linear 1 to 0"):
        assert words in result.stdout


def test_explain_as_json_is_the_manifest(run: Run, spec: Path) -> None:
    facts = json.loads(run("explain", spec, "--format", "json").stdout)
    assert facts["kdgraph_manifest"] == 1
    assert facts["models"]["teacher"]["capture"] == "fx"


def test_explain_says_what_a_step_costs(run: Run, spec: Path) -> None:
    text = run("explain", spec, "--batch", "32").stdout
    for words in (
        "cost of a step, batch of 32 (--batch)",
        "memory at the peak of a step",
        "what the optional passes save",
        "losses.hint",
        "peak memory",
    ):
        assert words in text
    facts = json.loads(run("explain", spec, "--batch", "32", "--format", "json").stdout)
    assert facts["cost"]["batch"] == 32
    assert run("explain", spec, "--batch", "0").exit_code == 2


@pytest.mark.parametrize("command", [("explain",), ("draw", "-o"), ("compile", "-o")])
def test_a_stage_that_there_is_not(
    run: Run, spec: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    out = (tmp_path / "out.svg",) if len(command) > 1 else ()
    result = run(command[0], spec, *command[1:], *out, "--stage", "nope")
    assert result.exit_code == 1
    assert "error[KD202]: the spec has no stages" in result.stderr
    assert not out or not out[0].exists()


def test_explain_of_a_model_whose_cost_is_not_known(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asks_for_values.py").write_text(ASKS)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "kd.yaml"
    path.write_text(ASKS_SPEC)
    result = run("explain", path, "--trust", "asks_for_values")
    assert result.exit_code == 0, result.stderr
    assert "cost not known: %" in result.stdout
    assert "depth of taps not known: %" in result.stdout
    assert "losses at the start not known: " in result.stdout
    assert "cost of a step" not in result.stdout


ASKS = """
from torch import nn


class Asks(nn.Linear):
    def forward(self, x):
        return super().forward(x) * (2 if x.sum() > 0 else 1)


def net():
    return Asks(4, 3)
"""

ASKS_SPEC = """
kdgraph: 1
name: asks
batch: {x: {shape: [B, 4]}}
models:
  teacher: {source: "python/asks_for_values:net", taps: {out: output}}
  student: {source: "python/asks_for_values:net", taps: {out: output}}
losses:
  hint: {use: hint, student: student.out, teacher: teacher.out}
"""


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, ""), (1, "1 B"), (999, "999 B"), (1000, "0.98 KiB"), (1536, "1.50 KiB"),
     (102_350, "100 KiB"), (5 * 2**30, "5.00 GiB")],
)  # fmt: skip
def test_sizes(number: int, shown: str) -> None:
    assert size(number) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, ""), (12, "12"), (9_996, "10.0 k"), (82_600_000, "82.6 M"), (1_234_000_000, "1.23 G")],
)
def test_operations(number: int, shown: str) -> None:
    assert flops(number) == shown


def test_draw_by_suffix(run: Run, spec: Path, tmp_path: Path) -> None:
    starts = {"dot": 'digraph "pair"', "mmd": "flowchart TB"}
    for suffix, start in starts.items():
        out = tmp_path / "pictures" / f"kd.{suffix}"
        assert run("draw", spec, "-o", out).exit_code == 0
        assert out.read_text().startswith(start)


def test_compile_writes_a_folder(run: Run, spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "build"
    result = run("compile", spec, "-o", out, "--set", "losses.soft.tau=2", "--without", "prune")
    assert result.exit_code == 0
    assert result.stdout.split() == [
        str(out / n) for n in ("graph.py", "graph.html", "manifest.json", "spec.lock.yaml")
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    assert "prune" not in [p["name"] for p in manifest["passes"]]
    assert "tau: 2.0" in (out / "spec.lock.yaml").read_text()
    assert run("check", out / "spec.lock.yaml").exit_code == 0


def test_compile_leaves_other_folders_alone(run: Run, spec: Path, tmp_path: Path) -> None:
    result = run("compile", spec, "-o", tmp_path)
    assert result.exit_code == 1
    assert "error[KD720]" in result.stderr
    assert spec.exists()


def test_list_each_kind(run: Run) -> None:
    expected = {
        "losses": "soft_target", "signals": "ensemble", "adapters": "conv1x1", "models": "timm",
        "passes": "prune", "schedules": "cosine", "data": "digits",
        "kernels": "csc",
    }  # fmt: skip
    for kind, name in expected.items():
        lines = run("list", kind).stdout.splitlines()
        assert any(line.startswith(name) and len(line) > len(name) + 10 for line in lines), kind


def test_list_one(run: Run) -> None:
    text = run("list", "losses", "soft_target").stdout
    assert "Hinton" in text
    assert "mean or sum or batchmean or element" in text
    facts = json.loads(run("list", "losses", "soft_target", "--format", "json").stdout)
    assert facts["keys"]["student"] == {"value": "tensor", "required": True, "default": None}
    assert facts["keys"]["tau"]["default"] == 4.0


def test_kernels_are_listed_with_their_losses(run: Run) -> None:
    (line,) = [x for x in run("list", "kernels").stdout.splitlines() if x.startswith("csc ")]
    assert "csc, spatial_correlation: " in line
    found = {e["name"]: e for e in json.loads(run("list", "kernels", "--format", "json").stdout)}
    assert found["csc"]["losses"] == ["csc", "spatial_correlation"]


def test_losses_are_listed_with_their_paper(run: Run) -> None:
    found = {e["name"]: e for e in json.loads(run("list", "losses", "--format", "json").stdout)}
    assert len(found) >= 30
    assert {name for name, entry in found.items() if "paper" not in entry} == set()
    line = next(
        x for x in run("list", "losses").stdout.splitlines() if x.startswith("soft_target ")
    )
    assert line.endswith("[arXiv:1503.02531]")


def test_every_entry_can_be_listed(run: Run) -> None:
    for kind in ("losses", "signals", "adapters", "schedules", "data", "passes"):
        for entry in json.loads(run("list", kind, "--format", "json").stdout):
            assert run("list", kind, entry["name"]).exit_code == 0
            assert entry["summary"]


def test_list_a_name_that_is_not_there(run: Run) -> None:
    result = run("list", "losses", "soft_targets")
    assert result.exit_code == 1
    assert "did you mean 'soft_target'?" in result.stderr


def test_list_models_of_a_source(run: Run) -> None:
    names = run("list", "models", "cifar/resnet*").stdout.split()
    assert "cifar/resnet8" in names
    assert all(n.startswith("cifar/resnet") for n in names)
    assert run("list", "models", "cifar/none*").exit_code == 0


def test_schema(run: Run, spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "schema.json"
    assert run("schema", "-o", out).exit_code == 0
    schema = json.loads(out.read_text())
    assert schema == json.loads(run("schema").stdout)
    jsonschema.validate(yaml.safe_load(spec.read_text()), schema)


def test_taps(run: Run) -> None:
    lines = run("taps", "cifar/resnet8", "--depth", "1", "--args", "width=0.5").stdout.splitlines()
    rows = [line.split(maxsplit=2) for line in lines]
    assert ["layer2", "Sequential", "[B, 16, 16, 16]"] in rows
    assert lines[-1].split()[0] == "output"


def test_taps_match_and_input(run: Run) -> None:
    result = run(
        "taps", "cifar/resnet8", "--match", "layer?", "--input", "3x16x16", "--format", "json"
    )
    facts = json.loads(result.stdout)
    assert [f["path"] for f in facts] == ["layer1", "layer2", "layer3"]
    assert facts[1]["tensors"] == [{"tap": "layer2", "shape": ["B", 32, 8, 8], "dtype": "float32"}]
    assert "nothing fits" in run("taps", "cifar/resnet8", "--match", "nothing").stderr


def test_taps_of_tokens(run: Run) -> None:
    args = ["num_hidden_layers=1", "hidden_size=8", "num_attention_heads=2", "intermediate_size=8"]
    result = run("taps", "hf/bert", *(x for a in args for x in ("--args", a)), "--input", "7")
    assert result.exit_code == 0, result.stderr
    assert "output.last_hidden_state" in result.stdout
    assert "[B, 7, 8]" in result.stdout


def test_taps_of_a_model_that_is_not_there(run: Run) -> None:
    result = run("taps", "cifar/resnet9")
    assert result.exit_code == 1
    assert "did you mean" in result.stderr
