"""DOT, Mermaid and SVG of a picture."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from xml.etree import ElementTree as ET

import pytest

from kdgraph.errors import KDGraphError
from kdgraph.runtime.report import Report
from kdgraph.visual import Box, Cluster, Picture, dot, mermaid, picture, svg
from kdgraph.visual.graphviz import find_engine


def hostile() -> Picture:
    title = 'a "quoted" <b>&amp;]; \\ end'
    box = Box("m_x", title, (title,), "teacher", "m", (title,))
    return Picture(title, (Cluster("m", title, "teacher"),), (box,), ())


def test_dot_of_a_picture(report: Report) -> None:
    text = dot(picture(report))
    assert text.startswith('digraph "pair" {')
    assert 'subgraph "cluster_teacher"' in text
    assert '"image" -> "student_conv1' in text
    assert 'lhead="cluster_student"' in text
    assert text.count("{") == text.count("}")


def test_mermaid_of_a_picture(report: Report) -> None:
    lines = mermaid(picture(report)).splitlines()
    assert lines[0] == "flowchart TB"
    assert '  subgraph in_teacher["teacher  cifar/resnet14"]' in lines
    assert "  b_losses_hint --> b_total" in lines
    assert any("-.->" in line for line in lines)


def test_names_cannot_break_out() -> None:
    assert "&lt;b&gt;&amp;amp;" in dot(hostile())
    assert 'digraph "a \\"quoted\\" <b>&amp;amp;]; \\\\ end"' in dot(hostile())
    assert "<b>&amp;" not in mermaid(hostile())
    assert mermaid(hostile()).count('"') == 4


def test_svg_is_drawn(report: Report, require_system: Callable[[str, object], None]) -> None:
    require_system("graphviz", find_engine())
    for drawn in (picture(report), picture(report, depth=3), hostile()):
        root = ET.fromstring(svg(drawn))
        assert root.tag.endswith("svg")
        text = "".join(root.itertext())
        assert all(b.title in text.replace("\N{NO-BREAK SPACE}", " ") for b in drawn.boxes)


def test_signs_that_xml_has_not_are_no_error(
    require_system: Callable[[str, object], None],
) -> None:
    require_system("graphviz", find_engine())
    title = "&b; nul \x00, bell \x07, half \ud800, none \uffff."
    box = Box("m_x", title, (title,), "teacher", "m", (title,))
    drawn = Picture(title, (Cluster("m", title, "teacher"),), (box,), ())
    text = "".join(ET.fromstring(svg(drawn)).itertext()).replace("\N{NO-BREAK SPACE}", " ")
    assert text.count("&b; nul \ufffd, bell \ufffd, half \ufffd, none \ufffd.") >= 4
    mermaid(drawn).encode()


def test_svg_without_graphviz_says_what_to_install(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(KDGraphError, match=r"KD430.*\n.*kdgraph\[draw\]"):
        svg(picture(report))
