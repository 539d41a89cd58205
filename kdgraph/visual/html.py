"""A scene as one page that works with no network: graph, layout engine and data in one file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

# In this order: each uses what those before it define.
_SCRIPTS = (
    "dom", "look", "model", "layout", "curve", "draw", "view", "labels", "weights", "rows", "facts",
    "overview", "steps", "search", "input", "export", "legend", "main",
)  # fmt: skip
_SLOT = re.compile(r"<!--(title|css|scene|elk|js)-->")


def html(scene: Mapping[str, Any], *, title: str | None = None, embedded: bool = False) -> str:
    """One page of a scene; its security policy forbids every request.

    Args:
        scene: what ``kdgraph.visual.scene`` returns; all of it is shown as text, none as markup.
        title: of the page; left out: the name of the scene.
        embedded: for a frame inside another page, as a notebook's: opens without the side panel,
            and leaves the wheel to the page around it until the graph is clicked.
    """
    return _page(json.dumps(scene, separators=(",", ":")), title or str(scene["name"]), embedded)


def _page(data: str, title: str, embedded: bool) -> str:
    parts = {
        "title": escape(title),
        "css": _asset("page.css"),
        "scene": _in_json(data),
        "elk": _in_script(_asset("vendor/elk.bundled.js")),
        "js": _in_script(_program()),
    }
    page = _SLOT.sub(lambda slot: parts[slot[1]], _asset("page.html"))
    return page.replace("<html ", '<html data-embedded="1" ', 1) if embedded else page


@cache
def _asset(name: str) -> str:
    return files("kdgraph.visual").joinpath("page", *name.split("/")).read_text(encoding="utf-8")


@cache
def _program() -> str:
    return "\n".join(['"use strict";', *(_asset(f"{name}.js") for name in _SCRIPTS)])


def _in_json(data: str) -> str:
    """JSON without a sign that could end a script or start a comment in it."""
    return data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _in_script(program: str) -> str:
    """JavaScript that cannot end the element around it; the same inside strings and patterns."""
    kept = re.sub(r"<(/?)(?=script|!--)", r"\\x3c\1", program, flags=re.IGNORECASE)
    return kept.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
