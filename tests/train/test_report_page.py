"""The page of a report: what is in the file, and what a real browser makes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdgraph.train.report import probe as probes
from kdgraph.train.report import report as reports
from kdgraph.train.report.page import POINTS, embedded, page
from tests.train.reported import HOSTILE, NETS, go, spec
from tests.visual.browser import Browser


@pytest.fixture(autouse=True)
def undrawn() -> None:
    """Here the graph is drawn."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of a spec whose name is anything but harmless."""
    made = tmp_path_factory.mktemp("page")
    (made / "report_nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(made))
        patch.setattr(probes, "EVERY", 1)
        go(spec(), made, compare=True)
        yield made


def in_page(text: str, name: str) -> Any:
    (found,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', text)
    return json.loads(found)


def test_the_file_holds_all_and_asks_nobody(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert in_page(text, "figures") == json.loads((folder / "report.json").read_text())
    assert "default-src &#x27;none&#x27;" in text
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    assert 'alert("x")</script>' not in text
    graph = in_page(text, "graph")
    assert "connect-src" not in graph
    assert in_page(graph, "scene")["name"] == HOSTILE
    for part in (graph, in_page(text, "figures")["spec"]):
        assert "weights.safetensors" not in part  # the teacher's, where it was trained
        assert str(folder.parent) not in part


def test_long_curves_are_thinned_on_the_page_alone(folder: Path) -> None:
    figures = json.loads((folder / "report.json").read_text())
    steps = list(range(1, 5 * POINTS + 1))
    figures["runs"][0]["curves"] = {"loss": {"steps": steps, "values": [0.5 * s for s in steps]}}
    curve = in_page(page(figures, embedded("")), "figures")["runs"][0]["curves"]["loss"]
    assert POINTS <= len(curve["steps"]) <= POINTS + 1
    assert (curve["steps"][0], curve["steps"][-1]) == (1, steps[-1])
    assert all(value == 0.5 * step for step, value in zip(*curve.values(), strict=True))


def test_a_picture_that_fails_ends_no_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(reports, "scene", fails)
    assert go(spec(train={"teacher": None}), tmp_path, steps=1).runs[0].steps == 1
    assert "could not be drawn: ValueError: no ink" in (tmp_path / "report.json").read_text()


CHARTS = "return Array.from(document.querySelectorAll('.uplot'), e => e.parentElement.parentElement"
TITLES = f"{CHARTS}.querySelector('h3').textContent)"
INK = """
const painted = (c) => new Set(new Uint32Array(
  c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer)).size > 3;
return Array.from(document.querySelectorAll("canvas"), painted);
"""


def test_a_browser_draws_everything_and_asks_nobody(folder: Path, window: Browser) -> None:
    path = window.folder / "report.html"
    path.write_bytes((folder / "report.html").read_bytes())
    for scheme in ("light", "dark"):
        window.scheme(scheme)
        window.driver.get(path.as_uri())
        window.wait()
        assert window.text("h1") == HOSTILE
        assert window.count("script") == 4  # none of a name
        titles = window.run(TITLES)
        assert titles == [
            "accuracy", "total loss", "agreement with teacher", "edges, weighted",
            "edges, as they are", "edges, mean of an epoch", "weights", "steered numbers",
            "learning rate", "gradient norm", "gradient against the labels'",
        ]  # fmt: skip
        painted = window.run(INK)
        assert len(painted) == len(titles) + 1  # and the confusion
        assert all(painted)
        assert window.run("return document.documentElement.scrollWidth <= innerWidth")
    window.click("header button[aria-pressed='false']")  # by steps
    assert window.run("return document.querySelector('.u-legend th').textContent").startswith(
        "step"
    )
    window.click("[role='group'] button:last-child")  # the student alone
    assert "steered numbers" not in window.run(TITLES)
    window.run("document.querySelector('iframe').scrollIntoView()")  # a hidden frame draws nothing
    window.driver.switch_to.frame(window.find("iframe"))
    window.wait()
    assert window.text("#name") == HOSTILE
    assert window.run("return document.documentElement.dataset.theme") == "dark"
    window.driver.switch_to.default_content()
    assert window.log() == []
    assert window.requests() == []
