"""How facts of a spec and its graph are put in few words."""

from __future__ import annotations

from typing import cast

from kdgraph.adapters.base import Adapter
from kdgraph.graph import shape_of
from kdgraph.graph.example import letter_sizes
from kdgraph.runtime.report import Report
from kdgraph.spec.entry import Entry
from kdgraph.spec.language import Spec
from kdgraph.spec.shapes import Shape
from kdgraph.spec.steer import Schedule


def shape_words(shape: Shape | None, spec: Spec, batches: int = 1) -> str:
    """``[B, 64, 8, 8]``: the free letter in the place of the example's batch size."""
    if shape is None:
        return ""
    return f"[{', '.join(str(s) for s in lettered(shape, spec, batches))}]"


def lettered(shape: Shape, spec: Spec, batches: int = 1) -> list[int | str]:
    """A shape with the batch's own letter in front, where it is the example's batch size.

    ``2B`` where the batches of two calls may lie behind each other.
    """
    firsts = (e.shape[0] for e in spec.batch.values())
    letter = next((s for s in firsts if isinstance(s, str)), None)
    sizes: list[int | str] = list(shape)
    if letter is not None and shape:
        count, rest = divmod(shape[0], letter_sizes(spec)[letter])
        if not rest and count in (1, batches):
            sizes[0] = letter if count == 1 else f"{count}{letter}"
    return sizes


def number_words(value: object) -> str:
    """``0.9``, ``linear 1 to 0``, or the name of a signal."""
    if isinstance(value, Schedule):
        moves = [f"{v:g}" for v in value.values()]
        return f"{value.kind} {' to '.join(dict.fromkeys((moves[0], moves[-1])))}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def entry_words(entry: Entry) -> str:
    """``soft_target, tau 4``: what an entry is, and the keys of it that are not the default."""
    hidden = {"use", "weight", "link", *entry.ref_fields()}
    kind = type(entry)
    written = [
        f"{key.replace('_', ' ')} {number_words(getattr(entry, key))}"
        for key in kind.model_fields
        if key not in hidden
        and getattr(entry, key) is not None
        and (key in entry.model_fields_set or key == "tau")
    ]
    return ", ".join([entry.use, *written])


def weight_words(spec: Spec, loss: str) -> str:
    """The weight of an edge."""
    return number_words(spec.losses[loss].weight)


def total_words(spec: Spec) -> str:
    """``0.1 label + 0.9 soft + (linear 1 to 0) hint``."""
    weights = {n: weight_words(spec, n) for n in spec.losses}
    shown = {n: f"({w}) " if " " in w else f"{w} " for n, w in weights.items() if w != "1"}
    return " + ".join(f"{shown.get(n, '')}{n}" for n in weights)


def named_shape(report: Report, reference: str) -> Shape | None:
    """The shape of a tap, a signal or a link's side, also where later passes removed it."""
    for record in report.records:
        if (node := record.after.named().get(reference)) is not None:
            return shape_of(node)
    return None


def adapters(report: Report) -> dict[str, Adapter]:
    """What the adapter of each link came out as."""
    found: dict[str, Adapter] = {}
    for name, link in report.spec.links.items():
        student, teacher = named_shape(report, link.student), named_shape(report, link.teacher)
        assert student is not None, "the passes have refused it"
        assert teacher is not None, "the passes have refused it"
        found[name] = cast(Adapter, link.adapter).resolve(student, teacher)
    return found


def path_words(paths: list[str]) -> str:
    """``encoder.layer.6 ... 11``: the modules that a stretch of a model runs through."""
    every = dict.fromkeys(p for p in paths if p)
    distinct = [p for p in every if not any(q.startswith(f"{p}.") for q in every)]
    if len(distinct) < 2:
        return "".join(distinct)
    split = [p.split(".") for p in distinct]
    common = 0
    while all(len(s) > common + 1 for s in split) and len({s[common] for s in split}) == 1:
        common += 1
    front = "".join(f"{part}." for part in split[0][:common])
    if common and split[0][common - 1].isdecimal():  # parts of one block of many
        return front.rstrip(".")
    inner = list(dict.fromkeys(_short(s[common:]) for s in split))
    if len(inner) <= 3 and not front:
        return ", ".join(inner)
    return f"{front}{inner[0]} ... {inner[-1]}" if len(inner) > 1 else front + inner[0]


def _short(path: list[str]) -> str:
    """``blocks.6`` of ``blocks.6.attn.qkv``: a name, with the number behind it."""
    return ".".join(path[:2] if path[1:2] and path[1].isdecimal() else path[:1])
