from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

import kdgraph

Run = Callable[..., Result]
Wrong = Callable[[str, str], Path]


def test_a_fine_spec(run: Run, spec: Path) -> None:
    result = run("check", spec)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        f"{spec}: fine",
        "  teacher  cifar/resnet14, frozen, fx: mid [B, 16, 8, 8], logits [B, 10]",
        "  student  cifar/resnet8, trained, fx: mid [B, 8, 8, 8], logits [B, 10]",
        "  mid      conv1x1: student.mid to teacher.mid",
        "  label    cross_entropy, weight 0.5: student.logits, label",
        "  soft     soft_target, weight 1: student.logits, teacher.logits",
        "  hint     hint, weight linear 1 to 0: mid.student, mid.teacher",
    ]


def test_of_several_stages_the_first_is_told(run: Run) -> None:
    path = Path(__file__).parents[2] / "specs" / "methods" / "gslr_qdnn.yaml"
    result = run("check", path)
    lines = result.stdout.splitlines()
    assert lines[1] == "  in the first of the stages float, quantised:"
    assert lines[-1] == "  label    cross_entropy, weight 1: student.logits, label"
    told = run("check", path, "--format", "json")
    assert json.loads(told.stdout)[0]["summary"]["stages"] == ["float", "quantised"]


def test_errors_are_diagnostics_on_stderr(run: Run, wrong: Wrong) -> None:
    path = wrong(
        "taps: {mid: layer2, logits: output}}\nlinks", "taps: {mid: layr2, logits: output}}\nlinks"
    )
    result = run("check", path)
    assert result.exit_code == 1
    assert result.stdout == ""
    found = kdgraph.check(path)
    assert result.stderr == "".join(f"{d}\n" for d in found)
    assert "did you mean 'layer2'" in result.stderr


def test_several_specs_are_all_checked(run: Run, spec: Path, wrong: Wrong) -> None:
    result = run("check", wrong("tau: 4", "tau: -4"), spec, "nowhere.yaml")
    assert result.exit_code == 1
    assert "tau" in result.stderr
    assert "nowhere.yaml" in result.stderr
    assert f"{spec}: fine" in result.stdout


def test_warnings_are_told_and_fine(run: Run, wrong: Wrong) -> None:
    result = run(
        "check",
        wrong(
            "{mid: layer2, logits: output}}\nlinks",
            "{mid: layer2, logits: output, idle: layer1}}\nlinks",
        ),
    )
    assert result.exit_code == 0
    assert "warning[KD210]" in result.stderr
    assert ": fine" in result.stdout


def test_json(run: Run, spec: Path, wrong: Wrong) -> None:
    result = run("check", spec, wrong("tau: 4", "tau: -4"), "--format", "json")
    assert result.exit_code == 1
    assert result.stderr == ""
    fine, bad = json.loads(result.stdout)
    assert fine["fine"] is True
    assert fine["summary"]["links"]["mid"]["adapter"] == "conv1x1"
    assert bad["fine"] is False
    assert bad["summary"] is None
    assert bad["diagnostics"][0]["line"] == 13


def test_overrides(run: Run, spec: Path) -> None:
    assert run("check", spec, "--set", "losses.soft.tau=2").exit_code == 0
    result = run("check", spec, "--set", "losses.soft.tau=-2")
    assert result.exit_code == 1
    assert "greater than 0" in result.stderr


def test_foreign_code_wants_trust(run: Run, wrong: Wrong) -> None:
    path = wrong("cifar/resnet14, args: {width: 0.5}", "python/kdgraph.models.nets.cifar:resnet")
    result = run("check", path)
    assert result.exit_code == 1
    assert "--trust kdgraph.models.nets.cifar" in result.stderr


def test_shipped_specs_are_found_by_name(run: Run) -> None:
    result = run("check", "digits")
    assert result.exit_code == 0
    assert "digits.yaml: fine" in result.stdout


def test_weights_that_are_not_there_are_told_with_the_rest(run: Run, wrong: Wrong) -> None:
    path = wrong("source: cifar/resnet14,", "source: cifar/resnet14, weights: gone.pt,")
    result = run("check", path)
    assert result.exit_code == 1
    assert "error[KD415]: there is no weights file" in result.stderr
    assert result.stderr == "".join(f"{d}\n" for d in kdgraph.check(path))
