from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from kdgraph.errors import ModelError
from kdgraph.models.load import build_model, build_skeleton

EXAMPLE = ("torch.nn:Linear", {"in_features": 3, "out_features": 2})

NETS = """
from torch import nn

def head(features):
    return nn.Linear(features, 2)

def broken():
    raise KeyError("by design")

def number():
    return 3

constant = 4
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "lab_of_tests").mkdir()
    (tmp_path / "lab_of_tests" / "nets.py").write_text(NETS)
    (tmp_path / "lab_of_tests" / "half.py").write_text("import no_such_thing_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    return "lab_of_tests.nets"


def test_a_trusted_module_is_called(module: str) -> None:
    for build in (build_model, build_skeleton):
        model = build(f"python/{module}:head", {"features": 3}, trust=[module])
        assert isinstance(model, nn.Linear)
        assert model.in_features == 3


@pytest.mark.parametrize("trust", [(), ("lab_of_tests",), ("lab_of_tests.nets.deeper",)])
def test_a_module_that_is_not_trusted_is_not_even_imported(
    module: str, trust: tuple[str, ...]
) -> None:
    sys.modules.pop(module, None)
    with pytest.raises(ModelError, match=f"KD412.*\n.*--trust {module}"):
        build_model(f"python/{module}:head", {"features": 3}, trust=trust)
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lab_of_tests.nets", "KD410"),
        ("lab_of_tests.nets:", "KD410"),
        ("../nets:head", "KD410"),
        ("lab_of_tests.knets:head", r"KD411.*lab_of_tests.knets.*\n.*PYTHONPATH"),
        ("no_such_lab.nets:head", r"KD411.*no_such_lab.nets"),
        ("lab_of_tests.half:head", "KD413.*no_such_thing_at_all"),
        ("lab_of_tests.nets:heat", r"KD411.*\n.*'head'"),
        ("lab_of_tests.nets:head", "KD413.*missing 1 required positional argument"),
        ("lab_of_tests.nets:broken", r"KD413.*by design.*\n.*nets.py:8, in broken"),
        ("lab_of_tests.nets:number", "KD413.*int.*not a torch.nn.Module"),
        ("lab_of_tests.nets:constant", "KD413.*not callable"),
    ],
)
def test_errors(module: str, name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        build_model(f"python/{name}", {}, trust=[name.partition(":")[0]])
