"""The colours of the parts: one hue each, told apart with any colour vision."""

from __future__ import annotations

from kdgraph.graph import Role

INK = "#1f2430"
FADED = "#9aa1ad"

LINE: dict[Role, str] = {
    "batch": "#6b7280",
    "teacher": "#2563c4",
    "student": "#c2620c",
    "adapter": "#7c4dbd",
    "signal": "#0f8a8a",
    "steer": "#6b7280",
    "loss": "#b3261e",
    "total": "#1f2430",
}
FILL: dict[Role, str] = {
    "batch": "#f1f2f4",
    "teacher": "#e4eefb",
    "student": "#fdeeda",
    "adapter": "#efe7fa",
    "signal": "#dcf3f1",
    "steer": "#f1f2f4",
    "loss": "#fbe6e4",
    "total": "#ffffff",
}
