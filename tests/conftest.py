"""What every test gets: one thread, no network, fixed seeds, a way to ask for system packages."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.visual.browser import Browser

# Set before anything imports torch, and inherited by the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["HF_HUB_OFFLINE"] = "1"

IN_CI = os.environ.get("KDGRAPH_CI") == "1"

# Timings of a shared machine decide no test; CI runs the same examples each time.
settings.register_profile(
    "kdgraph",
    deadline=None,
    derandomize=IN_CI,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("kdgraph")

# Modules looked at already: thousands are loaded, and few of them by one test.
_known: set[str] = set()


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """The same random numbers for a test wherever it stands in the order.

    torch and numpy are seeded only where they are loaded, so that tests without them stay quick.
    """
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _own_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module that a test wrote is imported by no other test, which may write one of its name."""
    yield
    written = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - _known:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(written):
            del sys.modules[name]
        else:
            _known.add(name)


@pytest.fixture(autouse=True, scope="module")
def _fresh_compiler() -> Iterator[None]:
    """How often something was compiled is counted in each file anew."""
    yield
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()


@pytest.fixture(scope="session")
def require_system() -> Callable[[str, object], None]:
    """``require_system("graphviz", shutil.which("dot"))``: needs a system package.

    Skips, with the reason, where it is missing; in CI, which installs them all, that fails.
    """

    def require(name: str, available: object) -> None:
        if available:
            return
        reason = f"needs the system package {name}"
        if IN_CI:
            pytest.fail(f"{reason}, which .ci/run should have installed")
        pytest.skip(reason)

    return require


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU")


@pytest.fixture(scope="module")
def window(require_system: Callable[[str, object], None]) -> Iterator[Browser]:
    """One browser for all tests of a file."""
    if not IN_CI:
        pytest.importorskip("selenium", reason="needs selenium, of kdgraph[dev]")
    from tests.visual.browser import chromium, programs

    found = programs()
    require_system("chromium, and chromium-driver", found)
    assert found is not None
    with chromium(*found) as browser:
        yield browser
