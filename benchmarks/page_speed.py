"""How quickly the page of a large graph opens, and how smoothly it is dragged.

Opens the page of a spec whose graph has more than 1,500 operations in a headless Chromium without
a GPU. The time to open runs from the start of the navigation to the page's own sign that it is
laid out and drawn. Frames are counted by requestAnimationFrame while a mouse drags the picture,
with all of it folded, with all of it unfolded at several scales, and between them.

    python benchmarks/page_speed.py
    python benchmarks/page_speed.py --output benchmarks/results
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

# where PYTHONSAFEPATH is set, the folder of a script is not on the path
sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1]))

from versus.machine import told

import kdgraph
from tests.visual.browser import Browser, chromium, programs

SPEC = Path(__file__).parent / "screens" / "large.yaml"
SECONDS = 4.0  # of dragging
# Notes when the page says that it is ready, on the clock that starts with the navigation.
WATCH = """
new MutationObserver(() => {
  if (document.documentElement.dataset.ready) window.readyAt ??= performance.now();
}).observe(document, { attributes: true, subtree: true, attributeFilter: ["data-ready"] });
"""
FRAMES = """
window.frames_ = [];
const tick = (now) => {
  window.frames_.push(now);
  if (window.counting) requestAnimationFrame(tick);
};
window.counting = true;
requestAnimationFrame(tick);
"""


def main() -> None:
    """Measures, prints, and writes page.json where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spec", type=Path, default=SPEC)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a folder for page.json")
    options = parser.parse_args()
    found = programs()
    if found is None:
        sys.exit("needs the system packages chromium and chromium-driver")
    before = told(torch.device("cpu"), "selenium")
    with tempfile.TemporaryDirectory() as scratch:
        page = kdgraph.draw(options.spec).save(Path(scratch) / "page.html")
        with chromium(*found) as browser:
            facts = measured(browser, page, options.repeats)
    result = {"environment": before, "spec": options.spec.name, **facts}
    text = json.dumps(result, indent=2)
    print(text)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "page.json").write_text(f"{text}\n", encoding="utf-8")


def measured(browser: Browser, page: Path, repeats: int) -> dict[str, Any]:
    """All figures of a page."""
    browser.resize(1280, 800)
    browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    opened = []
    for _ in range(repeats):
        browser.visit(page)
        opened.append(browser.run("return window.readyAt / 1000"))
    browser.press("\ue011", "#step")  # the first step: the graph as written
    folded = drag(browser)
    start = time.perf_counter()
    browser.click("#unfold-all")
    unfolding = time.perf_counter() - start
    scales = {"readable": drag(browser)}
    browser.click("#zoom-at")
    scales["true size"] = drag(browser)
    browser.click("#zoom-fit")
    scales["whole"] = drag(browser)
    return {
        "chromium": browser.driver.capabilities["browserVersion"],
        "window": "1280x800",
        "page_megabytes": round(page.stat().st_size / 1e6, 2),
        "nodes": browser.count("#world [data-node]"),
        "arrows": browser.count("#world .arrow"),
        "open_seconds": {
            "median": round(statistics.median(opened), 2),
            "all": [round(seconds, 2) for seconds in opened],
        },
        "folded": folded,
        "unfold_all_seconds": round(unfolding, 2),
        "unfolded": scales,
    }


def drag(browser: Browser) -> dict[str, float]:
    """Frames while the mouse drags the picture in loops."""
    browser.settle()
    x, y = 460, 400

    def mouse(kind: str, dx: float, dy: float, buttons: int = 1) -> None:
        place = {"type": kind, "x": x + dx, "y": y + dy, "button": "left", "buttons": buttons}
        browser.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {**place, "clickCount": 1})

    mouse("mousePressed", 0, 0)
    mouse("mouseMoved", 10, 0)
    browser.run(FRAMES)
    moves, start = 0, time.perf_counter()
    while (now := time.perf_counter() - start) < SECONDS:
        mouse("mouseMoved", 200 * math.sin(3 * now), 250 * math.sin(2 * now))
        moves += 1
    frames = browser.run("window.counting = false; return window.frames_")
    mouse("mouseReleased", 0, 0, buttons=0)
    gaps = sorted(b - a for a, b in itertools.pairwise(frames))
    drawn = "e => e.style.display !== 'none'"
    boxes = f"return [...document.querySelectorAll('#world .box')].filter({drawn}).length"
    return {
        "boxes_drawn": browser.run(boxes),
        "scale": round(browser.run("return view.state.scale"), 3),
        "moves_per_second": round(moves / SECONDS, 1),
        "frames_per_second": round(1000 * len(gaps) / (frames[-1] - frames[0]), 1),
        "longest_milliseconds": round(gaps[-1], 1),
        "p95_milliseconds": round(gaps[int(0.95 * len(gaps))], 1),
    }


if __name__ == "__main__":
    main()
