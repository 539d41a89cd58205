"""Teacher knowledge on disk: written once, read in the place of the teachers."""

from kdgraph.book.column import Column
from kdgraph.book.store import Book

__all__ = ["Book", "Column"]
