"""Which process runs what: Triton is either the interpreter or the compiler, never both in one.

The variable ``TRITON_INTERPRET`` counts when Triton is first imported. Unmarked tests run its
programs in the interpreter, those marked ``aot`` build them for GPUs that need not be there, and
those marked ``gpu`` run them on one:

    TRITON_INTERPRET=1 pytest tests/kernels -m "not aot and not gpu"
    pytest tests/kernels -m "aot or gpu"
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for `from aot import build`

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_runtest_setup(item: pytest.Item) -> None:
    compiles = any(item.get_closest_marker(mark) is not None for mark in ("aot", "gpu"))
    if compiles and INTERPRETED:
        pytest.skip("compiles Triton kernels: run it without TRITON_INTERPRET")
    if not compiles and not INTERPRETED:
        pytest.skip("interprets Triton kernels: run it with TRITON_INTERPRET=1")
