"""A batch that several processes share gives the losses and gradients of the whole batch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


def _cases() -> ModuleType:
    spec = importlib.util.spec_from_file_location("across", Path(__file__).parent / "across.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["across"] = module
    spec.loader.exec_module(module)
    return module


across = _cases()


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return across.run()


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("case", [c for c in across.CASES if c != "rank"])
def test_ranks_give_the_losses_and_gradients_of_one(
    case: str, world: int, ranks: Any, alone: dict[str, Any]
) -> None:
    one = alone[case]
    for found in (r[case] for r in ranks("across.py", world)):
        for name, value in one["losses"].items():
            assert found["losses"][name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
        assert found["loss"] == pytest.approx(one["loss"], rel=1e-9)
        assert found["grads"].keys() == one["grads"].keys()
        for name, grad in one["grads"].items():
            torch.testing.assert_close(found["grads"][name], grad, rtol=1e-7, atol=1e-10)
