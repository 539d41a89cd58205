from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import kdgraph
from tests.importers.files import config, place, term, weighted

Run = Callable[..., Result]

CE = term("CrossEntropyLoss", 1.0, {"input": place("."), "target": {"uses_label": True}})
FINE = config(weighted(ce=CE, crd=term("CRDLoss", 0.8)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(FINE)
    return path


def test_to_stdout_with_a_report(run: Run, file: Path) -> None:
    result = run("import", "torchdistill", file)
    assert result.exit_code == 0
    assert kdgraph.check(result.stdout, shapes=False) == []
    line = FINE[: FINE.index("        crd:")].count("\n") + 1
    (told,) = [row for row in result.stderr.splitlines() if "CRDLoss" in row]
    assert told.startswith(f"{file}:{line}:9: crd (CRDLoss, weight 0.8): it needs memory banks")


def test_to_a_file_that_must_be_new(run: Run, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "kd.yaml"
    result = run("import", "torchdistill", file, "-o", out)
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"kdgraph check {out}" in result.stderr
    text = out.read_text()
    assert text == run("import", "torchdistill", file).stdout
    again = run("import", "torchdistill", file, "-o", out)
    assert again.exit_code == 2
    assert "exists" in again.stderr
    assert out.read_text() == text


def test_json(run: Run, file: Path) -> None:
    result = run("import", "torchdistill", file, "--format", "json")
    facts = json.loads(result.stdout)
    assert list(facts) == ["spec", "carried", "left"]
    assert facts["spec"] == run("import", "torchdistill", file).stdout
    (crd,) = [entry for entry in facts["left"] if "CRDLoss" in entry["what"]]
    assert crd["where"] == "train.criterion.kwargs.sub_terms.crd"
    assert crd["line"] == FINE[: FINE.index("        crd:")].count("\n") + 1


def test_what_is_none_writes_nothing(run: Run, tmp_path: Path) -> None:
    path, out = tmp_path / "toy.yaml", tmp_path / "kd.yaml"
    path.write_text(config(weighted(crd=term("CRDLoss"))))
    for source, said in ((path, "memory banks"), (tmp_path / "none.yaml", "no file")):
        result = run("import", "torchdistill", source, "-o", out)
        assert (result.exit_code, result.stdout) == (1, "")
        assert said in result.stderr
        assert not out.exists()


def test_a_tool_that_there_is_not(run: Run, file: Path) -> None:
    result = run("import", "torchdistil", file)
    assert result.exit_code == 1
    assert "did you mean 'torchdistill'" in result.stderr
    assert run("list", "importers").stdout.startswith("torchdistill ")
