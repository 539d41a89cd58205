"""A picture in Mermaid, which GitHub and many wikis draw from text."""

from __future__ import annotations

from kdgraph.visual.colours import FADED, FILL, INK, LINE
from kdgraph.visual.picture import Arrow, Box, Picture


def mermaid(drawn: Picture) -> str:
    """Mermaid text: one subgraph a model."""
    lines = ["flowchart TB"]
    lines += [f"  {_box(b)}" for b in drawn.boxes if b.cluster is None]
    for cluster in drawn.clusters:
        inner = [f"    {_box(b)}" for b in drawn.boxes if b.cluster == cluster.name]
        lines += [f'  subgraph in_{cluster.name}["{_safe(cluster.title)}"]', *inner, "  end"]
    lines += [f"  {_arrow(a)}" for a in drawn.arrows]
    roles = {b.role for b in drawn.boxes}
    lines += [
        f"  classDef {role} fill:{FILL[role]},stroke:{LINE[role]},color:{INK};"
        for role in LINE
        if role in roles
    ]
    lines.append(f"  classDef cut fill:#ffffff,stroke:{FADED},color:{FADED},stroke-dasharray:4;")
    return "\n".join([*lines, ""])


def _box(box: Box) -> str:
    taps = [f"<i>tap {_safe(', '.join(box.taps))}</i>"] if box.taps else []
    text = "<br/>".join([f"<b>{_safe(box.title)}</b>", *map(_safe, box.lines), *taps])
    return f'b_{box.id}["{text}"]:::{"cut" if box.faded else box.role}'


def _arrow(arrow: Arrow) -> str:
    return f"b_{arrow.source} {'-.->' if arrow.faded else '-->'} b_{arrow.target}"


def _safe(text: str) -> str:
    """Text with the characters that Mermaid or HTML would read as their own."""
    return "".join(c if c.isalnum() or c in " .,_/-+:=" else f"#{ord(c)};" for c in text)
