"""Tables of what a step costs, for ``explain``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kdgraph.cli._show import count, new_table

if TYPE_CHECKING:
    from rich.table import Table

_HEADS = {
    "trained": "trained parameters", "frozen": "frozen parameters",
    "packed": "the same, packed for the CPU", "buffers": "buffers",
    "batch": "batch", "gradients": "gradients", "kept": "kept for the backward",
    "outputs": "outputs", "temporary": "temporary",
}  # fmt: skip


def cost_tables(cost: Mapping[str, Any]) -> Iterator[Table]:
    """By part; by role, before and after passes; by what fills the memory; what passes save."""
    if "unknown" not in cost:
        yield _parts(cost)
        yield _roles(cost)
        yield _memory(cost)
        yield _saved(cost)


def _parts(cost: Mapping[str, Any]) -> Table:
    origin = cost["batch_from"]
    note = "an example, --batch sets it" if origin == "example" else origin
    found = new_table(
        f"cost of a step, batch of {cost['batch']} ({note})",
        "part", "*FLOP\nforward", "*FLOP\nbackward", "*\n%", "*bytes\nmoved", "*bytes\nkept",
        "*param-\neters",
    )  # fmt: skip
    whole = cost["total"]
    for part, sums in cost["owners"].items():
        if any(sums.values()) and part != "total":  # that one is a few additions
            found.add_row(part, *_row(sums, whole))
    found.add_section()
    found.add_row("[bold]step[/]", *_row(whole, whole))
    return found


def _row(sums: Mapping[str, int], whole: Mapping[str, int]) -> list[str]:
    return [
        flops(sums["flops_forward"]),
        flops(sums["flops_backward"]),
        _share(_flops(sums), _flops(whole)).removesuffix("%"),
        size(_moved(sums)),
        size(sums["kept_bytes"]),
        count(sums["parameters"]) if sums["parameters"] else "",
    ]


def _roles(cost: Mapping[str, Any]) -> Table:
    """Of teachers, students, adapters, ...: each figure before the optional passes and after."""
    found = new_table(
        "by role, before the optional passes and after", "role",
        "*param-\neters", "*after", "*FLOP", "*after", "*bytes\nmoved", "*after", "*bytes\nkept",
        "*after",
    )  # fmt: skip
    before = cost["before_passes"]["roles"]
    for role in dict.fromkeys([*before, *cost["roles"]]):
        sums = [before.get(role, _NOTHING), cost["roles"].get(role, _NOTHING)]
        if role != "total" and any(any(s.values()) for s in sums):
            cells = [
                [count(s["parameters"]) if s["parameters"] else "" for s in sums],
                [flops(_flops(s)) for s in sums],
                [size(_moved(s)) for s in sums],
                [size(s["kept_bytes"]) for s in sums],
            ]
            found.add_row(role, *(cell for pair in cells for cell in pair))
    return found


_NOTHING = dict.fromkeys(
    ("flops_forward", "flops_backward", "bytes_forward", "bytes_backward", "kept_bytes",
     "parameters"), 0,
)  # fmt: skip


def _memory(cost: Mapping[str, Any]) -> Table:
    found = new_table("memory at the peak of a step", "what", "*bytes", "*%")
    peak = cost["peak_bytes"]
    for head, held in cost["memory"].items():
        if held:
            found.add_row(_HEADS[head], size(held), _share(held, peak).removesuffix("%"))
    found.add_section()
    found.add_row("[bold]peak[/]", size(peak), "100")
    if (optimizer := cost["optimizer"]) is not None:
        state = optimizer["state_bytes"]
        shown = "not known" if state is None else size(state) or "none"
        found.add_row(f"state of {optimizer['use']}, on top", shown, "")
    return found


def _saved(cost: Mapping[str, Any]) -> Table:
    found = new_table("what the optional passes save", "of a step", "*before", "*after", "*saved")
    before = cost["before_passes"]
    old, new = before["total"], cost["total"]
    _compare(found, "FLOP", _flops(old), _flops(new), flops)
    _compare(found, "bytes moved", _moved(old), _moved(new), size)
    _compare(found, "bytes kept", old["kept_bytes"], new["kept_bytes"], size)
    _compare(found, "peak memory", before["peak_bytes"], cost["peak_bytes"], size)
    return found


def _compare(found: Table, words: str, old: int, new: int, shown: Callable[[int], str]) -> None:
    if not old and not new:
        return
    saved = (
        _share(old - new, old) if new < old else f"-{new / old - 1:.0%}" if 0 < old < new else ""
    )
    found.add_row(words, shown(old), shown(new), saved)


def _flops(sums: Mapping[str, int]) -> int:
    return sums.get("flops_forward", 0) + sums.get("flops_backward", 0)


def _moved(sums: Mapping[str, int]) -> int:
    return sums["bytes_forward"] + sums["bytes_backward"]


def _share(part: int, whole: int) -> str:
    """``12%``; a trace of something is ``<1%``."""
    if not part or not whole:
        return ""
    return f"{part / whole:.0%}" if part / whole >= 0.01 else "<1%"


def flops(number: int) -> str:
    """``1.23 G``: floating point operations, three digits of them; nothing for none."""
    return _scaled(number, 1000, ("", "k", "M", "G", "T", "P"))


def size(number: int) -> str:
    """``1.23 MiB``; nothing for none."""
    return _scaled(number, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def _scaled(number: float, base: int, units: tuple[str, ...]) -> str:
    if not number:
        return ""
    step = 0
    while number >= 999.5 and step < len(units) - 1:
        number, step = number / base, step + 1
    digits = 0 if step == 0 or number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f} {units[step]}".strip()
