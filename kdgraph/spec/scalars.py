"""What a plain piece of YAML text means: YAML 1.2 rules, and only numbers that are finite.

``no``, ``yes`` and ``on`` are text; ``1e-3`` is a number; ``0x10`` and ``0o17`` are integers.
"""

from __future__ import annotations

import math
import re
import unicodedata

Scalar = str | int | float | bool | None

DIGITS = 40
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_HIDDEN = (  # what steers a terminal, turns the direction of writing, or shows as nothing
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f"
)
NOT_TEXT = re.compile(f"[\ud800-\udfff{_HIDDEN}]")
_NOT_FINITE = re.compile(r"[-+]?\.?(inf|infinity|nan)", re.IGNORECASE)


def why_no_text(text: str) -> str | None:
    """What a spec's text may not hold, in words; None where it is fine.

    That is half a character, and whatever a reader cannot see: a name is what it looks like.
    """
    if (found := NOT_TEXT.search(text)) is None:
        return None
    if "\ud800" <= found[0] <= "\udfff":
        return "half of a surrogate pair is not a character"
    name = unicodedata.name(found[0], "")
    told = f" ({name})" if name else ""
    return f"character U+{ord(found[0]):04X}{told} is not allowed in a spec"


class ScalarError(ValueError):
    """Text that looks like a number which no spec may hold."""


def resolve(text: str) -> Scalar:
    """The value of unquoted text.

    Raises:
        ScalarError: an integer of more than 40 digits, nan, or a number that is not finite.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text) or _BASED.fullmatch(text):
        if len(text.lstrip("+-")) > DIGITS:
            raise ScalarError(f"an integer of more than {DIGITS} digits")
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    if _FLOAT.fullmatch(text):
        if math.isfinite(value := float(text)):
            return value
        raise ScalarError("a number too large to be finite")
    if _NOT_FINITE.fullmatch(text):
        raise ScalarError("not a finite number")
    return text
