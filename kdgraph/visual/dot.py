"""A picture in the DOT language of Graphviz."""

from __future__ import annotations

from html import escape

from kdgraph.visual.colours import FADED, FILL, INK, LINE
from kdgraph.visual.picture import Arrow, Box, Picture


def dot(drawn: Picture) -> str:
    """DOT text: models side by side as clusters, what learns from them below."""
    lines = [
        f"digraph {_quoted(drawn.name)} {{",
        '  graph [rankdir=TB, newrank=true, nodesep=0.35, ranksep=0.4, fontname="Helvetica"];',
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11, margin="0.16,0.08"];',
        "  edge [arrowsize=0.7];",
    ]
    lines += [f"  {_box(b)}" for b in drawn.boxes if b.cluster is None]
    for cluster in drawn.clusters:
        lines += [
            f"  subgraph {_quoted(f'cluster_{cluster.name}')} {{",
            f"    label=<<b>{escape(cluster.title)}</b>>;",
            f'    fontsize=12; fontcolor="{LINE[cluster.role]}"; color="{LINE[cluster.role]}";',
            "    style=rounded; margin=12;",
            *(f"    {_box(b)}" for b in drawn.boxes if b.cluster == cluster.name),
            "  }",
        ]
    lines += [f"  {_arrow(a)}" for a in drawn.arrows]
    return "\n".join([*lines, "}", ""])


def _box(box: Box) -> str:
    taps = [f"<i>tap {escape(', '.join(box.taps))}</i>"] if box.taps else []
    text = "<br/>".join([f"<b>{escape(box.title)}</b>", *map(escape, box.lines), *taps])
    ink, line = (FADED, FADED) if box.faded else (INK, LINE[box.role])
    style = ', style="rounded,dashed"' if box.faded else ""
    fill = FILL[box.role]
    return (
        f"{_quoted(box.id)} [label=<{text}>, "
        f'color="{line}", fillcolor="{fill}", fontcolor="{ink}"{style}];'
    )


def _arrow(arrow: Arrow) -> str:
    colour = FADED if arrow.faded else LINE[arrow.role]
    style = ", style=dashed" if arrow.faded else ""
    return f'{_quoted(arrow.source)} -> {_quoted(arrow.target)} [color="{colour}"{style}];'


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
