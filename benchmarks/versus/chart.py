"""A small line chart as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 96, 40, 48
COLOURS = ("#2b6cb0", "#c05621", "#2f855a")
Points = Sequence[tuple[float, float]]


def lines(series: Mapping[str, Points], *, title: str, below: str, dashed: str = "") -> str:
    """Lines from zero on.

    Args:
        series: points of each line, by what is written at its end; x are whole numbers.
        title: above, what y is.
        below: what x is.
        dashed: the line that is no measurement.
    """
    places = sorted({x for points in series.values() for x, _ in points})
    top = _round_up(max(y for points in series.values() for _, y in points))

    def x(value: float) -> float:
        return LEFT + value / places[-1] * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 22, title, size=14),
    ]
    for i in range(5):
        value = top * i / 4
        at = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
        parts.append(f'<line {at} stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value:g}", anchor="end"))
    low = HEIGHT - BOTTOM + 20
    parts += [_text(x(place), low, f"{place:g}", anchor="middle") for place in places]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, below, anchor="middle"))
    for (name, values), colour in zip(series.items(), COLOURS, strict=False):
        points = [(x(a), y(b)) for a, b in values]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        how = ' stroke-dasharray="6 5"' if name == dashed else ""
        line = f'fill="none" stroke="{colour}" stroke-width="2"{how}'
        parts.append(f'<polyline points="{path}" {line}/>')
        if name != dashed:
            dots = (f'cx="{a:.1f}" cy="{b:.1f}" r="3.5"' for a, b in points)
            parts += [f'<circle {dot} fill="{colour}"/>' for dot in dots]
        parts.append(_text(points[-1][0] + 10, points[-1][1] + 4, name, colour=colour))
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
