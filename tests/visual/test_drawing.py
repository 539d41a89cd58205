from __future__ import annotations

from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import kdgraph
from kdgraph.runtime.report import Report
from kdgraph.visual import Drawing, drawing
from kdgraph.visual.graphviz import find_engine


@pytest.fixture
def drawn(report: Report) -> Drawing:
    return Drawing(lambda: [report])


def test_saves_by_suffix(
    drawn: Drawing, tmp_path: Path, require_system: Callable[[str, object], None]
) -> None:
    require_system("graphviz", find_engine())
    for suffix, start in (
        (".html", b"<!"), (".svg", b"<?xml"), (".png", b"\x89PNG"), (".dot", b"digraph"),
        (".mmd", b"flowchart"),
    ):  # fmt: skip
        path = drawn.save(tmp_path / "new" / f"graph{suffix}")
        assert path.read_bytes()[: len(start)].lower() == start.lower()
    assert len(list((tmp_path / "new").iterdir())) == 5  # and nothing besides


def test_an_unknown_suffix_has_a_near_match(drawn: Drawing, tmp_path: Path) -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"KD431[\s\S]*did you mean '\.html'"):
        drawn.save(tmp_path / "graph.htm")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_fails_leaves_the_old_file(
    drawn: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "graph.dot"
    path.write_text("old")
    monkeypatch.setitem(drawing.FORMS, ".dot", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        drawn.save(path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_a_disk_that_fills_up_leaves_the_old_file(
    drawn: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "graph.dot"
    path.write_text("old")

    def half(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        drawn.save(path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_a_notebook_shows_the_page_in_a_frame(drawn: Drawing) -> None:
    frames: list[dict[str, str | None]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag == "iframe"
            frames.append(dict(attrs))

    Reader().feed(drawn._repr_html_())
    (frame,) = frames
    assert frame["sandbox"] == "allow-scripts allow-downloads"
    assert frame["srcdoc"] == drawn.html(embedded=True)


def test_a_notebook_has_svg_where_no_page_is_shown(
    drawn: Drawing, require_system: Callable[[str, object], None]
) -> None:
    require_system("graphviz", find_engine())
    found = drawn._repr_mimebundle_()
    assert set(found) == {"text/plain", "text/html", "image/svg+xml"}
    assert ET.fromstring(found["image/svg+xml"]).tag.endswith("svg")


def test_a_step_shows_the_stage_it_is_in(text: str) -> None:
    staged = text + "stages:\n  - {name: first, losses: {hint: 1}}\n  - {name: second}\n"
    step = kdgraph.compile(staged)
    assert "first" in unescape(step._repr_html_() or "")
    step.set_stage("second")
    bundle = step._repr_mimebundle_()
    assert '"name":"second"' in unescape(bundle["text/html"])
    assert bundle["text/plain"] == repr(step)
    assert '"name":"second"' in kdgraph.draw(step).html()


def test_a_spec_is_drawn_with_all_its_stages(text: str, tmp_path: Path) -> None:
    staged = text + "stages:\n  - {name: first, losses: {hint: 1}}\n  - {name: second}\n"
    page = kdgraph.draw(staged).html()
    assert '"name":"first"' in page
    assert '"name":"second"' in page
    assert '"name":"first"' not in kdgraph.draw(staged, stage="second").html()
    boxed = kdgraph.draw(staged, depth=1).save(tmp_path / "graph.dot").read_text()
    assert len(boxed) > len(kdgraph.draw(staged).save(tmp_path / "graph.dot").read_text())


def test_a_notebook_has_the_page_where_graphviz_fails(
    drawn: Drawing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> str:
        raise RuntimeError("drew nothing")

    monkeypatch.setattr(drawing, "find_engine", lambda: "dot")
    monkeypatch.setattr(drawing, "svg", fails)
    assert set(drawn._repr_mimebundle_()) == {"text/plain", "text/html"}
