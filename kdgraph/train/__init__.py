"""The default run: trains the teacher, the student, and the student alone; or builds a book.

``explain`` says beforehand what it will be.

Names load on first use, so that the data sets can be listed without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdgraph.train.book import build_book
    from kdgraph.train.explained import explain
    from kdgraph.train.result import Result
    from kdgraph.train.runner import run

__all__ = ["Result", "build_book", "explain", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        from kdgraph.train.runner import run

        return run
    if name == "build_book":
        from kdgraph.train.book import build_book

        return build_book
    if name == "explain":
        from kdgraph.train.explained import explain

        return explain
    if name == "Result":
        from kdgraph.train.result import Result

        return Result
    raise AttributeError(f"module 'kdgraph.train' has no attribute {name!r}")
