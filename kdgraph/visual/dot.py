"""A picture in the DOT language of Graphviz."""

from __future__ import annotations

import re
from html import escape

from kdgraph.visual.colours import FADED, FILL, INK, LINE
from kdgraph.visual.picture import Arrow, Box, Picture

# What XML, and so a label of Graphviz, has no place for: control characters and lone surrogates.
_NO_TEXT = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def dot(drawn: Picture) -> str:
    """DOT text: models side by side as clusters, what learns from them below."""
    lines = [
        f"digraph {_quoted(drawn.name)} {{",
        "  graph [rankdir=TB, newrank=true, compound=true, nodesep=0.35, ranksep=0.4];",
        '  graph [fontname="Helvetica"];',
        '  node [shape=box, style="rounded,filled", margin="0.16,0.08"];',
        '  node [fontname="Helvetica", fontsize=11];',
        "  edge [arrowsize=0.7];",
    ]
    lines += [f"  {_box(b)}" for b in drawn.boxes if b.cluster is None]
    for cluster in drawn.clusters:
        lines += [
            f"  subgraph {_quoted(f'cluster_{cluster.name}')} {{",
            f"    label=<<b>{_text(cluster.title)}</b>>;",
            f'    fontsize=12; fontcolor="{LINE[cluster.role]}"; color="{LINE[cluster.role]}";',
            "    style=rounded; margin=12;",
            *(f"    {_box(b)}" for b in drawn.boxes if b.cluster == cluster.name),
            "  }",
        ]
    lies_in = {b.id: b.cluster for b in drawn.boxes}
    into: set[tuple[str, str]] = set()
    for arrow in drawn.arrows:
        model = lies_in[arrow.target] if arrow.role == "batch" else None
        if model is None:
            lines.append(f"  {_arrow(arrow)}")
        elif (arrow.source, model) not in into:  # once, to the frame: its title stays readable
            into.add((arrow.source, model))
            lines.append(f"  {_arrow(arrow, lhead=f'cluster_{model}', minlen='2')}")
    return "\n".join([*lines, "}", ""])


def _box(box: Box) -> str:
    taps = [f"<i>tap {_text(', '.join(box.taps))}</i>"] if box.taps else []
    text = "<br/>".join([f"<b>{_text(box.title)}</b>", *map(_text, box.lines), *taps])
    ink, line = (FADED, FADED) if box.faded else (INK, LINE[box.role])
    style = ', style="rounded,dashed"' if box.faded else ""
    fill = FILL[box.role]
    return (
        f"{_quoted(box.id)} [label=<{text}>, "
        f'color="{line}", fillcolor="{fill}", fontcolor="{ink}"{style}];'
    )


def _arrow(arrow: Arrow, **more: str) -> str:
    colour = FADED if arrow.faded else LINE[arrow.role]
    style = {"style": "dashed"} if arrow.faded else {}
    keys = {"color": colour, **style, **more}
    written = ", ".join(f"{key}={_quoted(value)}" for key, value in keys.items())
    return f"{_quoted(arrow.source)} -> {_quoted(arrow.target)} [{written}];"


def _text(text: str) -> str:
    return escape(_NO_TEXT.sub("\ufffd", text))


def _quoted(text: str) -> str:
    plain = _NO_TEXT.sub("\ufffd", text).replace("&", "&amp;")  # Graphviz writes &x; as it is
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
