"""Books in an object store: fetched once, a shard at a time, to where files can be mapped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import fsspec

from kdgraph.book.files import cannot, put, sound
from kdgraph.book.header import FOLDER, HEADER, SHARDS, Header, checksum
from kdgraph.book.writer import read_list
from kdgraph.errors import BookError


def local(path: str | os.PathLike[str]) -> Path:
    """The folder of a book on this machine.

    Args:
        path: a folder, or a URL that fsspec knows (``s3://bucket/books/kd``, ``gs://``, ``hf://``).
            What is there is copied to ``kdgraph/books`` in the user's cache (``XDG_CACHE_HOME``,
            else ``~/.cache``); shards that are there already are not fetched again.

    Raises:
        BookError: KD761 when there is no finished book; KD762 when a shard is not what was
            written; KD765 when it cannot be kept.
    """
    text = os.fspath(path)
    if "://" not in text:
        return Path(text)
    fetch = _fetch(text)
    header = fetch(HEADER)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "kdgraph" / "books" / checksum(header)
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot(folder, error) from error
    put(folder / HEADER, header, "fetched")
    put(folder / SHARDS, fetch(SHARDS), "fetched")
    for name, _ in read_list(folder, Header.read(folder)) or ():
        place, expected = folder / FOLDER / name, Path(name).stem.rpartition("-")[2]
        if not sound(place, expected):
            data = fetch(f"{FOLDER}/{name}")
            if checksum(data) != expected:
                raise BookError.of("KD762", f"the shard {name!r} in {text!r} is damaged")
            put(place, data, "fetched")
    return folder


def _fetch(url: str) -> Callable[[str], bytes]:
    """Reads files below a URL."""
    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise BookError.of("KD761", f"{url!r} cannot be reached: {error}") from error

    def fetch(name: str) -> bytes:
        try:
            data: bytes = system.cat_file(f"{root.rstrip('/')}/{name}")
        except OSError as error:
            message = f"there is no finished book at {url!r}: {name} cannot be read: {error}"
            raise BookError.of("KD761", message) from error
        return data

    return fetch
