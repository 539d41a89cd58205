from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from kdgraph.spec.entry import ACTIONS, ADAPTERS, LOSSES, SIGNALS
from kdgraph.spec.steer import SCHEDULES
from kdgraph.spec.data import DATA
from kdgraph.spec.transforms import TRANSFORMS

registry = {"losses": LOSSES, "adapters": ADAPTERS, "signals": SIGNALS, "schedules": SCHEDULES,
            "data": DATA, "transforms": TRANSFORMS, "actions": ACTIONS}
assert registry[sys.argv[1]].names()
heavy = {"torch", "numpy", "torchvision", "timm", "transformers"} & set(sys.modules)
assert not heavy, f"importing {sys.argv[1]} imports {heavy}"
"""


@pytest.mark.parametrize(
    "part", ["losses", "adapters", "signals", "schedules", "data", "transforms", "actions"]
)
def test_naming_the_vocabulary_imports_no_torch(part: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, part], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
