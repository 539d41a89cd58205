"""Which places of two models belong together: what ``init`` proposes as taps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdgraph.spec.shapes import ShapeMismatch, square_prefix

if TYPE_CHECKING:
    from kdgraph.capture import TapInfo

_MOST = 3  # more hints cost more than they teach
Size = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """A tap path and the shape read there."""

    path: str
    shape: Size


@dataclass(frozen=True)
class Pair:
    """A place in the student, its partner in the teacher, and why they are partners.

    With ``skip`` the teacher's tokens, less that many in front, are laid out as a map first.
    """

    student: Place
    teacher: Place
    why: str
    skip: int | None = None


def pairs(student: Sequence[TapInfo], teacher: Sequence[TapInfo]) -> list[Pair]:
    """Up to three pairs that an adapter can make fit, from the input's side to the output's.

    Maps of equal height and width are partners, and so are blocks of transformers at the same
    relative depth; tokens and a map are where both have as many positions.
    """
    blocks_s, blocks_t = _blocks(student), _blocks(teacher)
    if blocks_s and blocks_t:
        found = _by_depth(blocks_s, blocks_t)
    elif blocks_t:
        found = _maps_from_tokens(_maps(student), blocks_t)
    elif blocks_s:
        found = _tokens_from_maps(blocks_s, _maps(teacher))
    else:
        found = _by_size(_maps(student), _maps(teacher))
    return [p for p in found if _fits(p)][-_MOST:]


def output(taps: Sequence[TapInfo]) -> Place:
    """The model's logits, or else the first tensor that it returns."""
    places = _places(taps[-1])
    return next((p for p in places if p.path.endswith("logits")), places[0])


def embedding(taps: Sequence[TapInfo], logits: Place) -> str:
    """The path of what the classifier reads, or else of the last map."""
    for tap in reversed(taps):
        if tap.module_type == "Linear" and tap.path and tap.shapes[:1] == (logits.shape,):
            return f"{tap.path}:in"
    maps = list(_maps(taps).values())
    return maps[-1].path if maps else logits.path


def _places(tap: TapInfo) -> list[Place]:
    return [Place(p, s) for p, s in zip(tap.taps, tap.shapes, strict=True)]


def _maps(taps: Sequence[TapInfo]) -> dict[Size, Place]:
    """The last map of each height and width, of the outermost module that has parts."""
    found: dict[Size, tuple[tuple[bool, int], Place]] = {}
    around = {tap.path.rpartition(".")[0] for tap in taps}
    logits = output(taps).shape
    for tap in taps[:-1]:
        places = _places(tap)
        if len(places) != 1 or len(places[0].shape) != 4 or places[0].shape[1] == logits[1]:
            continue
        size, rank = _height_width(places[0].shape), (tap.path in around, -tap.path.count("."))
        if min(size) > 1 and (size not in found or rank >= found[size][0]):
            found[size] = (rank, places[0])
    return {size: place for size, (_, place) in sorted(found.items(), reverse=True)}


def _height_width(shape: Size) -> Size:
    """Of [B, C, H, W], or of [B, H, W, C] where only the first two of these are equal."""
    last = shape[1] == shape[2] != shape[3]
    return shape[1:3] if last else shape[2:]


def _blocks(taps: Sequence[TapInfo]) -> list[Place]:
    """The blocks of a transformer in order: numbered modules that return tokens of one shape."""
    rows: dict[tuple[str, Size], list[Place]] = {}
    for tap in taps:
        parent, _, last = tap.path.rpartition(".")
        places = _places(tap)
        if last.isdecimal() and places and len(places[0].shape) == 3:
            rows.setdefault((parent, places[0].shape), []).append(places[0])
    blocks = max(rows.values(), key=len, default=[])
    return blocks if len(blocks) > 1 else []


def _by_size(student: dict[Size, Place], teacher: dict[Size, Place]) -> list[Pair]:
    return [
        Pair(student[size], teacher[size], f"both {_words(size)}")
        for size in teacher
        if size in student
    ]


def _by_depth(student: Sequence[Place], teacher: Sequence[Place]) -> list[Pair]:
    found = []
    for third in range(1, _MOST + 1):
        s, t = (math.ceil(len(x) * third / _MOST) - 1 for x in (student, teacher))
        why = f"after {third}/{_MOST} of the blocks" if third < _MOST else "after the last block"
        found.append(Pair(student[s], teacher[t], why))
    return list({(p.student, p.teacher): p for p in found}.values())


def _maps_from_tokens(student: dict[Size, Place], teacher: Sequence[Place]) -> list[Pair]:
    """The student's map of the size of the teacher's grid, and the block two thirds down."""
    block = teacher[math.ceil(len(teacher) * 2 / 3) - 1]
    batch, tokens, width = block.shape
    skip = square_prefix(tokens)
    if skip is None:
        return []
    side = math.isqrt(tokens - skip)
    place = student.get((side, side))
    as_map = Place(block.path, (batch, width, side, side))
    why = f"both {_words((side, side))}"
    return [Pair(place, as_map, why, skip=skip)] if place else []


def _tokens_from_maps(student: Sequence[Place], teacher: dict[Size, Place]) -> list[Pair]:
    """The block two thirds down, and the teacher's map of the size of the student's grid."""
    block = student[math.ceil(len(student) * 2 / 3) - 1]
    tokens = block.shape[1]
    side = math.isqrt(tokens - (square_prefix(tokens) or 0))
    place = teacher.get((side, side))
    return [Pair(block, place, f"both {_words((side, side))}")] if place else []


def _words(size: Size) -> str:
    return " x ".join(map(str, size))


def _fits(pair: Pair) -> bool:
    from kdgraph.adapters.auto import Auto

    try:
        Auto().resolve(pair.student.shape, pair.teacher.shape)
    except ShapeMismatch:
        return False
    return True
