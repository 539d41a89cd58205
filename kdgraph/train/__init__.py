"""The default run: trains the teacher, the student, and the student alone to compare with.

Names load on first use, so that the data sets can be listed without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdgraph.train.result import Result
    from kdgraph.train.runner import run

__all__ = ["Result", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        from kdgraph.train.runner import run

        return run
    if name == "Result":
        from kdgraph.train.result import Result

        return Result
    raise AttributeError(f"module 'kdgraph.train' has no attribute {name!r}")
