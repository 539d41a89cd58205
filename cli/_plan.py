"""Tables of what is known of a run before it starts, for ``explain``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kdgraph.cli._show import count, dims, new_table, plain

if TYPE_CHECKING:
    from rich.table import Table

Facts = Mapping[str, Any]


def plan_tables(facts: Facts) -> Iterator[Table]:
    """Models, taps, links, signals, edges, passes."""
    yield _models(facts)
    yield _taps(facts)
    yield _links(facts)
    yield _signals(facts)
    yield _edges(facts)
    yield _passes(facts)


def _models(facts: Facts) -> Table:
    table = new_table("models", "model", "source", "role", "parameters", "used", "capture")
    for name, model in facts["models"].items():
        whys = [f"not {d['rung']}: {d['reason']}" for d in model["declined"]]
        table.add_row(
            name,
            plain(_source(model)),
            "[dark_orange]trained[/]" if model["trainable"] else "[blue]frozen[/]",
            count(model["parameters"]),
            f"{model['parameters_used'] / max(model['parameters'], 1):.0%}",
            plain("\n".join([model["capture"], *whys])),
        )
    return table


def _source(model: Facts) -> str:
    """``timm/resnet18``, or whose network another call is one of."""
    if "same_as" in model:
        return f"another call of {model['same_as']}"
    if "snapshot_of" in model:
        return f"snapshot of {model['snapshot_of']}"
    passes = f", {model['passes']} passes" if "passes" in model else ""
    dropout = ", dropout on" if "dropout" in model else ""
    return f"{model['source'] or 'given as a module'}{passes}{dropout}"


def _taps(facts: Facts) -> Table:
    """With how deep each lies and how much of the input it sees."""
    table = new_table("taps", "tap", "reads", "shape", "*depth", "*sees")
    for name, model in facts["models"].items():
        for tap, found in model["taps"].items():
            reach = facts["reach"].get(f"{name}.{tap}", {})
            table.add_row(
                f"{name}.{tap}",
                plain(found["path"]),
                plain(dims(found["shape"])),
                _percent(reach.get("depth")),
                _percent(reach.get("field")),
            )
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _links(facts: Facts) -> Table:
    table = new_table("links", "link", "student", "teacher", "adapter", "parameters")
    for name, link in facts["links"].items():
        size = count(link["parameters"])
        table.add_row(name, link["student"], link["teacher"], plain(link["adapter"]), size)
    return table


def _signals(facts: Facts) -> Table:
    table = new_table("signals", "name", "use", "reads")
    for name, signal in facts["signals"].items():
        table.add_row(name, signal["use"], ", ".join(signal["reads"]))
    return table


def _edges(facts: Facts) -> Table:
    table = new_table("loss edges", "edge", "use", "weight", "reads", "computed")
    for name, edge in facts["edges"].items():
        reads = [f"{field}: {r['from']} {dims(r['shape'])}" for field, r in edge["reads"].items()]
        reads += [f"through {how}" for how in edge["adapter"].values() if how != "identity"]
        weight = edge["weight"]
        table.add_row(
            name,
            f"[red]{edge['use']}[/]",
            f"{weight:g}" if isinstance(weight, float) else str(weight),
            plain("\n".join(reads)),
            plain("\n".join(_computed(edge))),
        )
    return table


def _computed(edge: Facts) -> list[str]:
    """The kernel, or why there is none, and what passes did and declined."""
    why = edge["kernel_why"]
    kernel = f"kernel: {why}" if edge["kernel"] else f"no kernel: {why}"
    return [kernel, *edge["computed"], *(f"declined: {line}" for line in edge["declined"])]


def _passes(facts: Facts) -> Table:
    table = new_table("passes", "pass", "did", "nodes")
    for step in facts["passes"]:
        lines = [*step["did"], *(f"declined: {line}" for line in step["declined"])]
        change = f"{step['nodes_before']} to {step['nodes_after']}"
        table.add_row(step["name"], plain("\n".join(lines) or "nothing to do"), change)
    return table


def start_table(facts: Facts) -> Table | None:
    """What each edge adds to the loss before the first step."""
    start = facts["start"]
    if "edges" not in start:
        return None
    table = new_table(
        f"losses at the start ({start['rows']} random rows)",
        "edge",
        "*weight",
        "*value",
        "*product",
        "*%",
    )
    for name, part in start["edges"].items():
        value, product = part["value"], part["weighted"]
        weight = f"{product / value:.3g}" if value else ""
        share = f"{100 * part['share']:.0f}" if part["weighted"] else ""
        table.add_row(name, weight, f"{value:.3g}", f"{product:.3g}", share)
    return table


def book_lines(facts: Facts) -> list[str]:
    """The size of the book, or why there would be none."""
    from kdgraph.book.header import in_units

    book = facts["book"]
    lines = [f"no book: {book['skipped']}"] if "skipped" in book else []
    if "columns" not in book:
        return lines
    each = ", ".join(_column(column) for column in book["columns"])
    at = "".join(f", at {letter} = {size}" for letter, size in book["at"].items())
    size = f"{book['sample_bytes']:,} bytes a sample and view ({each}{at})"
    if (view := book["view_bytes"]) is None:
        rows = "how many samples there are, only reading the data tells"
    else:
        rows = f"{'' if book['rows_exact'] else 'at most '}{book['rows']:,} samples"
        if book["bytes"] is None:
            rows += f", {in_units(view)} a view"
        else:
            views = f" in {book['views']} views" if book["views"] > 1 else ""
            rows += f"{views}, {in_units(book['bytes'])}"
    return [*lines, f"{'a view' if lines else 'book'}: {size}; {rows}"]


def _column(column: Facts) -> str:
    kept = f"top {column['k']} {column['dtype']}" if column["k"] else column["dtype"]
    return f"{column['name']} {dims(column['shape'])} {kept}"
