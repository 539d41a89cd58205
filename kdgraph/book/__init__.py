"""Teacher knowledge on disk: written once, read in the place of the teachers."""

from kdgraph.book.column import Column
from kdgraph.book.header import Header, Shard
from kdgraph.book.store import Book
from kdgraph.book.verify import Verdict, verify
from kdgraph.book.writer import Writer

__all__ = ["Book", "Column", "Header", "Shard", "Verdict", "Writer", "verify"]
