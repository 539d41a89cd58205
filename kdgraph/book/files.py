"""Files that are either there in full or not there: written aside, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdgraph.errors import BookError

if sys.platform != "win32":
    import fcntl

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def put(path: Path, data: bytes, owner: str) -> None:
    """Writes a file in full, or not at all.

    Args:
        path: where it is to be; one that is there is replaced.
        data: the content.
        owner: who writes, in the name of what is written aside.

    Raises:
        BookError: KD765 when it cannot be written.
    """
    aside = path.with_name(f".{owner}.{secrets.token_hex(6)}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise cannot(path, error) from error
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    _settle(path.parent)


def cannot(path: Path, error: OSError) -> BookError:
    """What is said where something cannot be written."""
    full = error.errno in _FULL
    message = f"{str(path)!r} cannot be written: {error.strerror or error}"
    help = "what is finished stays: make room, and the same command goes on from there"
    return BookError.of("KD765", message, help=help if full else None)


def _settle(folder: Path) -> None:
    """Makes a rename outlast a loss of power, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: Path, owner: str | None = None) -> None:
    """Removes what was written aside and never finished, of one owner or of all."""
    for path in folder.glob(f".{owner or '*'}.*.tmp"):
        path.unlink(missing_ok=True)


def sound(path: Path, expected: str) -> bool:
    """Whether a file has the content that was written.

    Raises:
        BookError: KD762 when it cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a device or a pipe may never end
            return False
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        return digest.hexdigest() == expected
    except FileNotFoundError:
        return False
    except OSError as error:
        raise BookError.of("KD762", f"{str(path)!r} cannot be read: {error.strerror}") from error


@contextmanager
def locked(folder: Path, *, alone: bool) -> Iterator[None]:
    """Holds a folder while the block runs; the system lets go when the process ends, however.

    Args:
        folder: what is held.
        alone: lets no one else hold it; otherwise several may that all say so.

    Raises:
        BookError: KD766 when another process holds it.
    """
    if sys.platform == "win32":  # without locks two builders do the same work, and do it right
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"another process is building the book in {str(folder)!r}"
            help = "wait for it, or build in several processes with torchrun"
            raise BookError.of("KD766", message, help=help) from error
        except OSError:  # a file system without locks; files are still never half there
            pass
        yield
    finally:
        os.close(handle)
