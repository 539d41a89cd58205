"""The text of a spec's files: which of them are read, and how much of it."""

from __future__ import annotations

import codecs
import re
import stat
from pathlib import Path

from kdgraph.errors import Diagnostic, Span, SpecError
from kdgraph.spec.lines import Lines

MAX_BYTES = 256 * 1024
SUFFIXES = (".yaml", ".yml")
_SAYS_SO = re.compile(rb"""(?:^|[{,])[ \t]*["']?kdgraph["']?[ \t]*:[ \t]*[0-9]""", re.MULTILINE)
_MARKS = {  # of other encodings, the longer first
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip


def read_file(path: str, *, extended: bool = False, span: Span | None = None) -> str:
    """The text of a file.

    Args:
        path: the file.
        extended: a spec asks for it, and not the user. A spec may have come from somebody else,
            so what it asks for has to say that it is a spec, by its name and by a line
            ``kdgraph: 1``, before an error quotes it.
        span: where it is asked for.

    Raises:
        SpecError: KD100 when it cannot be read, KD101 when it is not UTF-8, KD102 when it
            is too large, KD120 when a spec asks for what is no spec.
    """
    if extended and not path.endswith(SUFFIXES):
        message = f"{path!r} is no spec: its name must end in {' or '.join(SUFFIXES)}"
        raise SpecError([Diagnostic("KD120", message, span)])
    try:
        file = Path(path)
        if extended and not stat.S_ISREG(kind := file.stat().st_mode):
            # opening a pipe would wait for somebody to write into it
            raise IsADirectoryError if stat.S_ISDIR(kind) else OSError("it is no regular file")
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise SpecError([Diagnostic("KD100", _unreadable(path, error), span)]) from None
    if extended and not _SAYS_SO.search(data):
        message = f"{path!r} is no spec: it does not say `kdgraph: 1`"
        raise SpecError([Diagnostic("KD120", message, span)])
    if len(data) > MAX_BYTES:
        raise too_large(path, span)
    return _decoded(path, data)


def _decoded(path: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = None
        other = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
        message = f"{path!r} is {other}, not UTF-8"
        if other is None:
            before = data[: error.start].decode("utf-8-sig")
            place = Lines(path, data.decode("utf-8", "replace")).after(before)
            message = f"byte {data[error.start]:#04x} at offset {error.start} is not UTF-8"
        help = "save the file as UTF-8"
        raise SpecError([Diagnostic("KD101", message, place, help)]) from None


def _unreadable(path: str, error: Exception) -> str:
    name = repr(path)
    if isinstance(error, FileNotFoundError):
        return f"there is no file {name}"
    if isinstance(error, IsADirectoryError):
        return f"{name} is a folder, not a spec"
    if isinstance(error, PermissionError):
        return f"no permission to read {name}"
    return f"cannot read {name}: {getattr(error, 'strerror', None) or error}"


def too_large(file: str, span: Span | None = None) -> SpecError:
    """The error for more text than a spec has; it is not quoted."""
    message = f"more than {MAX_BYTES // 1024} KiB of text in {file!r}: this is not a spec"
    return SpecError([Diagnostic("KD102", message, span)])
