"""The page in a real browser: what it shows, what a click, a key and the slider do."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html import escape
from typing import Any

import pytest

from kdgraph.runtime.report import Report
from kdgraph.visual import html, manifest, scene
from tests.visual import page_scene
from tests.visual.browser import Browser
from tests.visual.page_scene import EMOJI, LONG, RTL, SCRIPT

SVG = "{http://www.w3.org/2000/svg}"
BOX = "#world [data-id='{}']"


@pytest.fixture
def browser(window: Browser) -> Iterator[Browser]:
    """A window in which nothing may go wrong: no word on the console, no request."""
    window.scheme("light")
    yield window
    assert window.log() == []
    assert window.requests() == []


@pytest.fixture(scope="module")
def compiled(report: Report) -> dict[str, Any]:
    """The scene of a true compilation."""
    return scene([report])


@pytest.fixture
def pair(browser: Browser) -> Browser:
    """The window with the hand-made pair on it."""
    browser.open(page_scene.scene())
    return browser


def box(name: str) -> str:
    return BOX.format(name)


def chevron(name: str) -> str:
    return f"{box(name)} .chevron, [data-head='{name}'] .chevron"


# what is drawn


def test_a_fresh_page_shows_boxes_and_nothing_folded_open(pair: Browser) -> None:
    assert pair.text("#name") == "pair"
    assert pair.ids("#world [data-kind='box']") == {
        "image", "label", "teacher_1", "teacher_cut", "student_1", "student_2", "adapters_mid",
        "losses_hint", "losses_label", "total",
    }  # fmt: skip
    assert pair.count("#world [data-kind='group'], #world [data-kind='node']") == 0
    assert pair.ids("#world .frame") == {"cluster:teacher", "cluster:student"}


def test_unfolded_every_node_of_the_manifest_is_drawn_once(
    browser: Browser, report: Report, compiled: dict[str, Any]
) -> None:
    browser.open(compiled)
    browser.click("#unfold-all")
    drawn = "return Array.from(document.querySelectorAll('#world [data-node]:not([data-faded])'),"
    names: list[str] = browser.run(f"{drawn} e => e.dataset.node)")
    assert len(names) == len(set(names))
    written = [n for n in manifest(report, cost=False)["nodes"] if n["op"] != "get_attr"]
    nodes = {n["name"] for n in written if n["target"] != "tap"}
    # a module that is one node of the graph unfolds to what is within it
    within = {name: name.split("__")[0] for name in names}
    assert {name if name in nodes else within[name] for name in names} == nodes


def test_models_stand_side_by_side_and_the_rest_below(pair: Browser) -> None:
    names = ("cluster:teacher", "cluster:student", "image", "losses_hint", "total")
    where = {name: pair.find(box(name)).rect for name in names}
    teacher, student = where["cluster:teacher"], where["cluster:student"]
    assert teacher["x"] + teacher["width"] < student["x"]
    assert teacher["y"] == pytest.approx(student["y"], abs=1)
    assert where["image"]["y"] < teacher["y"] < where["losses_hint"]["y"] < where["total"]["y"]


def test_no_two_boxes_overlap(browser: Browser, compiled: dict[str, Any]) -> None:
    browser.open(compiled)
    browser.click("#unfold-all")
    script = (
        "return Array.from(document.querySelectorAll('#world .box .shape'), e => {"
        "const b = e.getBBox(); return [b.x, b.y, b.x + b.width, b.y + b.height]})"
    )
    boxes: list[list[float]] = browser.run(script)
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_texts_stay_in_their_boxes(browser: Browser) -> None:
    browser.open(page_scene.scene(page_scene.leg(None, hostile=True)))
    browser.click("#unfold-all")
    script = (
        "const right = e => { const b = e.getBBox(); return b.x + b.width };"
        "return Array.from(document.querySelectorAll('#world .box text'),"
        "t => right(t) - right(t.closest('.box').querySelector('.shape')))"
    )
    assert max(browser.run(script)) <= 0


def test_cut_code_is_faded_and_says_why(pair: Browser) -> None:
    assert pair.ids("#world .box[data-faded]") == {"teacher_cut"}
    assert pair.count(".arrow[data-faded][data-from='teacher_1'][data-to='teacher_cut']") == 1
    pair.click(box("teacher_cut"))
    assert pair.text("#facts .why") == "cut: nothing reads them"


def test_marks_are_on_the_box(pair: Browser) -> None:
    assert pair.text(f"{box('losses_hint')} .chip.mark") == "kernel hint_rows"
    assert pair.text(f"{box('losses_label')} .chip.mark") == "fused"


# folding


def test_a_click_on_the_chevron_unfolds_and_folds(pair: Browser) -> None:
    pair.click(chevron("teacher_1"))
    inner = {"node:teacher_stem", *(f"teacher/body/{i}" for i in range(3))}
    assert inner <= pair.ids("#world .box")
    assert pair.find(box("teacher_1")).get_attribute("aria-expanded") == "true"
    pair.click(chevron("teacher/body/1"))
    assert "node:teacher_b1_relu" in pair.ids("#world .box")
    assert pair.count(".arrow[data-from='teacher/body/0'][data-to='node:teacher_b1_add']") == 1
    pair.click("[data-head='teacher_1'] .chevron")
    assert pair.ids("#world .box[data-kind='node']") == set()


def test_what_was_unfolded_inside_stays_so(pair: Browser) -> None:
    pair.click(chevron("teacher_1"))
    pair.click(chevron("teacher/body/1"))
    pair.click("[data-head='teacher_1'] .chevron")
    pair.click(chevron("teacher_1"))
    assert "node:teacher_b1_relu" in pair.ids("#world .box")


def test_the_title_stays_where_it_was(pair: Browser) -> None:
    before = pair.find(box("teacher_1")).rect
    pair.click(chevron("teacher_1"))
    after = pair.find(box("teacher_1")).rect
    assert (after["x"], after["y"]) == pytest.approx((before["x"], before["y"]), abs=2)


def test_a_double_click_and_enter_unfold_too(pair: Browser) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(pair.driver, duration=0).double_click(pair.find(box("teacher_1"))).perform()
    pair.wait()
    assert "node:teacher_stem" in pair.ids("#world .box")
    pair.run("document.querySelector(arguments[0]).focus()", box("student_1"))
    pair.press("\ue007")
    assert "node:student_stem" in pair.ids("#world .box")
    assert pair.run("return document.activeElement.dataset.id") == "student_1"


def test_all_unfold_and_all_fold(pair: Browser) -> None:
    folded = pair.ids("#world .box")
    pair.click("#unfold-all")
    assert pair.count("#world [data-fold='shut']") == 0  # nothing is left to unfold
    pair.click("#fold-all")
    assert pair.ids("#world .box") == folded


def test_a_model_folds_to_one_box(pair: Browser) -> None:
    pair.click("[data-head='cluster:teacher'] .chevron")
    assert "cluster:teacher" in pair.ids("#world .box")
    assert pair.count(".arrow[data-from='cluster:teacher'][data-to='losses_hint']") == 1


# the panel


def test_a_click_shows_the_facts_of_a_node(pair: Browser) -> None:
    pair.click(box("adapters_mid"))
    facts = pair.facts()
    assert facts["shape"] == "[B, 8, 4, 4]"
    assert facts["dtype"] == "float32"
    assert facts["parameters"] == "10"
    assert facts["FLOP"] == "1 K forward, 2 K backward"
    assert facts["kept"] == "50 B"
    assert facts["span"] == "spec.yaml:7:3"
    assert facts["path"] == "adapters.mid"
    assert "fold: folded into one convolution" in pair.text("#facts .did")


def test_a_folded_box_shows_sums(pair: Browser) -> None:
    pair.click(box("teacher_1"))
    facts = pair.facts()
    assert facts["nodes"] == "13"
    assert facts["parameters"] == "70"  # the stem and two convolutions of each block
    assert facts["FLOP"] == "13 K forward, 26 K backward"


def test_a_shape_of_a_true_graph(
    browser: Browser, report: Report, compiled: dict[str, Any]
) -> None:
    browser.open(compiled)
    node = next(n for n in manifest(report, cost=False)["nodes"] if n["target"] == "adapters.mid")
    browser.press(f"{node['name']}\ue007", "#search")
    browser.click("#world .selected")
    assert browser.facts()["shape"] == f"[{', '.join(map(str, node['shape']))}]"


def test_with_nothing_selected_it_shows_the_cost(pair: Browser) -> None:
    assert "teacher" in pair.text("#facts table")
    pair.click(box("total"))
    assert pair.count("#facts table") == 0
    pair.press("\ue00c")
    assert "peak" in pair.text("#facts table:last-of-type")


def test_a_link_in_the_panel_leads_to_the_other_end(pair: Browser) -> None:
    pair.click(box("total"))
    pair.run("document.querySelector('#facts .links button').click()")
    pair.wait()
    assert pair.ids("#world .selected") == {"losses_hint"}


def test_an_arrow_shows_its_shape_when_its_end_is_selected(pair: Browser) -> None:
    assert pair.count(".label") == 0
    pair.click(box("adapters_mid"))
    assert pair.text(".label[data-of='student_1→adapters_mid']") == "[B, 8, 4, 4]"


def test_a_cost_that_is_not_known_is_said_so(browser: Browser) -> None:
    leg = page_scene.leg(None) | {"cost": {"unknown": "it does not run on fake tensors"}}
    browser.open(page_scene.scene(leg))
    assert "it does not run on fake tensors" in browser.text("#facts")


# training progress


def test_the_slider_moves_every_weight(pair: Browser) -> None:
    def values() -> dict[str, str]:
        rows = "return Array.from(document.querySelectorAll('[data-value]'), "
        return dict(pair.run(rows + "e => [e.dataset.value, e.textContent])"))

    assert values() == {"hint": "1", "label": "0.5", "losses.soft.tau": "4"}
    slide = "const s = document.getElementById('progress'); s.value = arguments[0];"
    pair.run(slide + "s.dispatchEvent(new Event('input'))", 25)
    assert values() == {"hint": "0.75", "label": "0.5", "losses.soft.tau": "4.5"}
    assert pair.text("#progress-at") == "epoch 15 of 60"
    assert pair.text(f"{box('losses_hint')} .weight-text") == "weight 0.75"
    assert pair.text(f"{box('losses_label')} .weight-text") == "weight 0.5"
    pair.press("\ue010", "#progress")  # the End key, as a reader would
    assert values()["hint"] == "0"
    assert pair.count(".arrow.idle[data-from='losses_hint']") == 1


def test_only_what_moves_has_a_curve(pair: Browser) -> None:
    assert pair.count(f"{box('losses_hint')} .curve") == 1
    assert pair.count(f"{box('losses_label')} .curve") == 0


# stages and steps


def test_a_stage_is_switched(browser: Browser) -> None:
    first, second = page_scene.leg("features"), page_scene.leg("labels")
    second["weights"]["hint"] = page_scene.words(0.0)
    browser.open(page_scene.scene(first, second))
    browser.click(chevron("teacher_1"))
    browser.press("labels", "#leg")
    assert browser.text("[data-value='hint']") == "0"
    browser.press("\ue00c", "#graph")
    assert "stage labels" in browser.text("#facts")
    assert "node:teacher_stem" in browser.ids("#world .box")  # stays unfolded


def test_one_leg_needs_no_switch(pair: Browser) -> None:
    assert not pair.find("#leg-pick").is_displayed()


def test_passes_are_walked_through(pair: Browser) -> None:
    assert "teacher_cut" in pair.ids("#world .box")
    assert "freeze: no batch-norm" in pair.text("#step-facts .declined")
    pair.click("#step-back")
    assert "cut 1 operation of teacher" in pair.text("#step-facts .did")
    pair.click("#step-back")
    assert pair.text("#step-facts h3") == "as written"
    assert "teacher_2" in pair.ids("#world .box")
    assert pair.count("#world .box[data-faded]") == 0
    assert not pair.find("#step-back").is_enabled()
    pair.press("]", "#graph")
    assert "teacher_cut" in pair.ids("#world .box")


# search and keys


def test_search_walks_through_hits_and_unfolds(pair: Browser) -> None:
    pair.press("/", "#graph")
    assert pair.run("return document.activeElement.id") == "search"
    pair.press("teacher_b1", "#search")
    assert pair.text("#found") == "4"
    assert pair.count("#hits li") == 4
    pair.press("\ue007", "#search")
    assert pair.ids("#world .selected") == {"node:teacher_b1_conv1"}
    assert pair.text("#found") == "1/4"
    pair.press("\ue007", "#search")
    assert pair.ids("#world .selected") == {"node:teacher_b1_relu"}


def test_search_finds_paths_and_says_when_nothing_is_there(pair: Browser) -> None:
    pair.press("student/body", "#search")
    assert pair.text("#hits .path") == "student/body/0"
    pair.press("x", "#search")
    assert pair.text("#found") == "none"


def test_keys_zoom_pan_and_fit(pair: Browser) -> None:
    def where() -> list[float]:
        return pair.run("return [view.state.x, view.state.y, view.state.scale]")

    fitted = where()
    pair.press("+", "#graph")
    assert where() != fitted
    pair.press("0", "#graph")
    assert where()[2] == 1
    pair.press("\ue014", "#graph")
    moved = where()
    pair.press("f", "#graph")
    assert where() == fitted != moved


def test_tab_walks_over_boxes_and_leaves_the_graph(pair: Browser) -> None:
    ids = pair.count("#world [data-id]")
    pair.run("document.querySelector(arguments[0]).focus()", box("image"))
    pair.press("\ue004")
    second = pair.run("return document.activeElement.dataset.id")
    assert second != "image"
    for _ in range(ids - 1):
        pair.press("\ue004")
    assert not pair.run("return document.activeElement.closest('#graph') !== null")


def test_every_control_has_a_name(pair: Browser) -> None:
    script = (
        "return Array.from(document.querySelectorAll('button, select, input, #graph [data-id]'))"
        ".filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length))"
        ".map(e => e.outerHTML.slice(0, 90))"
    )
    assert pair.run(script) == []


# how it looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(pair: Browser, scheme: str) -> None:
    pair.scheme(scheme)
    script = (
        "const rgb = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => (v /= 255) <= 0.03928 "
        "? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);"
        "const light = c => { const [r, g, b] = rgb(c); return 0.2126*r + 0.7152*g + 0.0722*b };"
        "return Array.from(document.querySelectorAll('#world .box:not([data-faded])'), e => {"
        "const on = light(getComputedStyle(e.querySelector('.shape')).fill);"
        "return Array.from(e.querySelectorAll('.title, .line, .weight-text'), t => {"
        "const ink = light(getComputedStyle(t).fill);"
        "return (Math.max(on, ink) + 0.05) / (Math.min(on, ink) + 0.05) })}).flat()"
    )
    assert min(pair.run(script)) >= 4.5  # WCAG 2, level AA


def test_the_theme_is_switched(pair: Browser) -> None:
    def ground() -> str:
        return str(pair.run("return getComputedStyle(document.body).backgroundColor"))

    before = ground()
    pair.click("#theme")
    assert ground() != before
    pair.click("#theme")
    assert ground() == before


def test_roles_differ_in_outline_or_letter(pair: Browser) -> None:
    script = (
        "return Object.fromEntries(Array.from(document.querySelectorAll('#world .box'),"
        "e => [e.dataset.role, e.querySelector('.letter-text').textContent]))"
    )
    letters: dict[str, str] = pair.run(script)
    assert len(set(letters.values())) == len(letters) == 6


def test_a_large_graph_stays_smooth(browser: Browser) -> None:
    # What made it slow, once: a transform of its own on each box, and boxes out of sight drawn.
    browser.open(page_scene.scene(page_scene.leg(None, blocks=24)))
    browser.click("#unfold-all")
    assert browser.count("#world *[transform]") == 0
    sight = "return [...document.querySelectorAll('#world .box')].filter(e => {}).length"
    drawn = browser.run(sight.format("e.style.display !== 'none'"))
    assert 10 < drawn < browser.count("#world .box")
    browser.press("teacher_b23_add\ue007", "#search")
    assert browser.find("#world .selected").is_displayed()
    browser.click("#zoom-fit")
    browser.settle()
    assert browser.run(sight.format("e.style.display === 'none'")) == 0


# names from outside


def test_hostile_names_are_text(browser: Browser) -> None:
    browser.open(page_scene.scene(page_scene.leg(None, hostile=True), name=SCRIPT))
    assert browser.text("#name") == SCRIPT
    assert browser.text(f"{box('teacher_1')} .title") == SCRIPT
    assert browser.text(f"{box('student_1')} .title").endswith("…")
    browser.click(box("student_1"))
    assert browser.text("#facts h2") == LONG
    browser.click(box("adapters_mid"))
    assert browser.text("#facts h2") == RTL
    browser.click(chevron("teacher_1"))
    assert browser.text(f"{box('node:teacher_stem')} .title") == EMOJI
    assert browser.count("#facts script, #world script, #facts b") == 0
    assert browser.find("#stage").rect["width"] > 600  # a long name pushes nothing aside


# export


def test_the_picture_is_saved_as_svg(browser: Browser) -> None:
    browser.open(page_scene.scene(page_scene.leg(None, hostile=True), name="a/b <svg>"))
    browser.click("#export-svg")
    path = browser.downloaded("a_b_svg_.svg")
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    assert root.tag == f"{SVG}svg"
    drawn = {e.get("data-id") for e in root.iter(f"{SVG}g")} - {None}
    assert drawn == browser.ids("#world [data-id]")
    texts = {e.text for e in root.iter(f"{SVG}text")}
    assert SCRIPT in texts
    shapes = [e for e in root.iter(f"{SVG}path") if "fill: rgb" in (e.get("style") or "")]
    assert len(shapes) >= len(drawn) - 2  # colours without a style sheet
    assert not any("var(" in (e.get("style") or "") for e in root.iter())


def test_the_picture_is_saved_as_png(browser: Browser) -> None:
    browser.open(page_scene.scene(name="small"))
    browser.click("#export-png")
    data = browser.downloaded("small.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n")
    width = int.from_bytes(data[16:20], "big")
    assert width >= 2 * browser.run("return view.size().width")


# in a frame, and without a worker


def test_a_frame_of_a_notebook_shows_it(browser: Browser) -> None:
    page = html(page_scene.scene(), embedded=True)
    frame = (
        f'<iframe id="f" width="900" height="600" sandbox="allow-scripts" srcdoc="{escape(page)}">'
    )
    around = browser.folder / "notebook.html"
    around.write_text(f"<!doctype html><meta charset=utf-8><title>notebook</title>{frame}</iframe>")
    browser.driver.get(around.as_uri())
    browser.driver.switch_to.frame("f")
    browser.wait()
    assert "total" in browser.ids("#world .box")
    assert not browser.find("#panel").is_displayed()
    browser.click("#panel-toggle")
    assert browser.find("#panel").is_displayed()
    browser.driver.switch_to.default_content()


def test_a_page_without_workers_lays_out_itself(browser: Browser) -> None:
    stop = {"source": "delete window.Worker; window.Worker = class { constructor() { throw 1 } }"}
    made = browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", stop)
    try:
        browser.open(page_scene.scene())
        assert "total" in browser.ids("#world .box")
    finally:
        browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", made)
