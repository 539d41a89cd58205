"""Code of the user's own: a spec may call what is defined in a module that is trusted by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection

_NAME = r"[A-Za-z][A-Za-z0-9_]*|_(?!_)[A-Za-z0-9_]*"
_CALL = re.compile(rf"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>{_NAME})", re.ASCII)


def parsed(call: str) -> tuple[str, str] | None:
    """Module and name of ``package.module:callable``; None where it is not of that form.

    Letters are those of ASCII, since others look like them, and what Python gives every module by
    itself (``__loader__``) is not to be called.
    """
    found = _CALL.fullmatch(call)
    return None if found is None else (found["module"], found["name"])


def trusts(trust: Collection[str], module: str) -> bool:
    """Whether a module is trusted by its whole name; a word is one name, not its letters."""
    return module in ((trust,) if isinstance(trust, str) else trust)


def defined_elsewhere(found: object, module: str) -> str | None:
    """The module that a function or class is of, where it is neither ``module`` nor below it.

    Somebody else's spec could otherwise call whatever a trusted module imports for its own use,
    such as ``subprocess.run``.
    """
    if not isinstance(found, type) and not inspect.isroutine(found):
        return None  # made here, like a functools.partial
    home = getattr(found, "__module__", None) or "builtins"
    return None if f"{home}.".startswith(f"{module}.") else str(home)
