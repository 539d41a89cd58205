"""Tap paths: the words by which a spec names a tensor inside a model.

    PATH [@N] [:in[K] | :out] ([I] | .KEY)*

``layer3`` is what the submodule ``layer3`` returns, ``layer3@2`` what its second call returns,
``layer3:in[1]`` the second argument of its call, ``encoder[0]`` the first of several results and
``encoder:out.last_hidden_state`` a named one. ``output`` is what the model itself returns.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from kdgraph.errors import CaptureError, Diagnostic

_TAP = re.compile(
    r"(?P<path>\w+(?:\.\w+)*)"
    r"(?:@(?P<call>[1-9]\d*))?"
    r"(?::(?:(?P<input>in)(?:\[(?P<index>\d+)\])?|(?P<result>out)))?"
    r"(?P<reach>(?:\[-?\d+\]|\.\w+)*)",
    re.ASCII,
)
_STEP = re.compile(r"\[(-?\d+)\]|\.(\w+)", re.ASCII)
GRAMMAR = "PATH[@N][:in[K]|:out] and then any of [I] or .KEY, as in layer3.0:in or output.logits"


@dataclass(frozen=True)
class TapPath:
    """One tap, taken apart.

    Attributes:
        text: the tap as it was written.
        path: dotted path of the submodule; empty for the model itself.
        call: which call of the submodule, from 1.
        side: whether its result or one of its arguments is meant.
        index: which argument, from 0, when ``side`` is ``"in"``.
        reach: positions and keys that lead from there to the tensor.
    """

    text: str
    path: str
    call: int = 1
    side: Literal["in", "out"] = "out"
    index: int = 0
    reach: tuple[int | str, ...] = ()


def parse_tap(text: str) -> TapPath:
    """Reads one tap path.

    Raises:
        CaptureError: KD401 when ``text`` does not follow the grammar.
    """
    found = _TAP.fullmatch(text)
    if found is None:
        raise CaptureError.of("KD401", f"{text!r} is not a tap", help=f"a tap reads {GRAMMAR}")
    path, marked = found["path"], found["call"] or found["input"] or found["result"]
    reach = tuple(int(i) if i else key for i, key in _STEP.findall(found["reach"]))
    if not marked and path.split(".")[0] == "output":
        return TapPath(text, "", reach=(*path.split(".")[1:], *reach))
    return TapPath(
        text,
        path,
        call=int(found["call"] or 1),
        side="in" if found["input"] else "out",
        index=int(found["index"] or 0),
        reach=reach,
    )


def resolve_taps(module: nn.Module, taps: Mapping[str, str]) -> dict[str, TapPath]:
    """Reads every tap and makes sure that its submodule is there.

    Args:
        module: the model that the taps look into.
        taps: tap name to tap path.

    Raises:
        CaptureError: with one diagnostic for each tap that cannot be (KD401, KD201).
    """
    found: dict[str, TapPath] = {}
    wrong: list[Diagnostic] = []
    paths = {name for name, _ in module.named_modules(remove_duplicate=False)}
    for name, text in taps.items():
        try:
            tap = parse_tap(text)
        except CaptureError as error:
            wrong.extend(error.diagnostics)
            continue
        if tap.path in paths:
            found[name] = tap
        else:
            wrong.append(Diagnostic("KD201", f"no tap {text!r}", help=_hint(tap, paths)))
    if wrong:
        raise CaptureError(wrong)
    return found


def _hint(tap: TapPath, paths: set[str]) -> str:
    parts = tap.path.split(".")
    for cut in range(len(parts) - 1, 0, -1):  # a key written as if it were a submodule
        parent = ".".join(parts[:cut])
        if parent in paths and not any(p.startswith(f"{parent}.") for p in paths):
            named = f"{parent}:out.{'.'.join(parts[cut:])}"
            return f"{parent!r} has no submodules; a named result of it is {named!r}"
    close = near_paths(tap.path, paths)
    listing = "`kdgraph taps` lists what there is"
    if not close:
        return listing
    return f"did you mean {' or '.join(repr(c) for c in close)}? {listing}"


def near_paths(path: str, paths: Iterable[str], limit: int = 3) -> list[str]:
    """The paths most like ``path``, as a whole or in their last component."""
    paths = sorted(p for p in paths if p)
    close = difflib.get_close_matches(path, paths, n=limit, cutoff=0.7)
    last = path.rsplit(".", 1)[-1]
    same = [p for p in paths if p.rsplit(".", 1)[-1] == last]
    ranked = difflib.get_close_matches(path, same, n=limit, cutoff=0.0)
    return list(dict.fromkeys([*close, *ranked]))[:limit]
