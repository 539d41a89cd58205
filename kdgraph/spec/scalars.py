"""What a plain piece of YAML text means: YAML 1.2 rules, and only numbers that are finite.

``no``, ``yes`` and ``on`` are text; ``1e-3`` is a number; ``0x10`` and ``0o17`` are integers.
"""

from __future__ import annotations

import math
import re

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
_NOT_FINITE = re.compile(r"[-+]?\.?(inf|infinity|nan)", re.IGNORECASE)


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
