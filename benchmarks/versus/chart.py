"""A small line chart as SVG: seconds of a compilation over the depth of the models."""

from __future__ import annotations

from typing import Any

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 96, 40, 48
COLOURS = ("#2b6cb0", "#c05621", "#2f855a")


def growth(rows: list[dict[str, Any]]) -> str:
    """Lines over ``depth``, one per ``pair``, from rows with ``seconds``."""
    depths = sorted({row["depth"] for row in rows})
    top = _round_up(max(row["seconds"] for row in rows))

    def x(depth: float) -> float:
        return LEFT + depth / depths[-1] * (WIDTH - LEFT - RIGHT)

    def y(seconds: float) -> float:
        return HEIGHT - BOTTOM - seconds / top * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 22, "Seconds of kdgraph.compile by layers of each model", size=14),
    ]
    for i in range(5):
        value = top * i / 4
        at = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
        parts.append(f'<line {at} stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value:g}", anchor="end"))
    low = HEIGHT - BOTTOM + 20
    parts += [_text(x(depth), low, str(depth), anchor="middle") for depth in depths]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "layers", anchor="middle"))
    for pair, colour in zip(dict.fromkeys(row["pair"] for row in rows), COLOURS, strict=False):
        points = [(x(r["depth"]), y(r["seconds"])) for r in rows if r["pair"] == pair]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>' for a, b in points]
        parts.append(_text(points[-1][0] + 10, points[-1][1] + 4, pair, colour=colour))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'{head} width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">\n' + (
        "\n".join(parts) + "\n</svg>\n"
    )


def _round_up(value: float) -> float:
    """To 1, 2, 4 or 8 times a power of ten, so that quarters are short numbers."""
    power = float("1" + "0" * (len(str(int(value))) - 1)) if value >= 1 else 0.1
    return power * next(n for n in (1, 2, 4, 8, 10, 20) if n * power >= value)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#333"
) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {where} font-size="{size}" fill="{colour}">{text}</text>'
