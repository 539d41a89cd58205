"""The page as text: one file, nothing to fetch, nothing of a scene read as markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from importlib import resources

from kdgraph.visual import html
from tests.visual.page_scene import LONG, RTL, SCRIPT, leg, scene

HOSTILE = scene(leg(None, hostile=True), name=f"{SCRIPT}<!--\u2028")


class Reader(HTMLParser):
    """Tags with their attributes, and the text of each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.title = ""
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside == "title":
            self.title += data


def test_the_scene_comes_back_as_it_was() -> None:
    read = Reader(html(HOSTILE))
    assert len(read.scripts) == 3  # nothing of the scene has ended or begun one
    assert json.loads(read.scripts[0]) == HOSTILE
    assert read.title == HOSTILE["name"]


def test_nothing_of_a_scene_is_markup() -> None:
    page = html(HOSTILE)
    assert SCRIPT not in page
    assert not any("\u2028" in script for script in Reader(page).scripts)
    assert "<b>" not in Reader(page).scripts[0]
    assert LONG in page  # but no name is lost
    assert json.dumps(RTL)[1:-1] in page


def test_the_title_may_be_another() -> None:
    assert Reader(html(scene(), title="a & <b>")).title == "a & <b>"


def test_the_policy_forbids_every_request() -> None:
    (policy,) = (
        attributes["content"]
        for tag, attributes in Reader(html(scene())).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("default-src") == "'none'"
    allowed = {source for sources in rules.values() for source in sources.split()}
    assert allowed == {"'unsafe-inline'", "'none'", "blob:", "data:"}


def test_nothing_leads_out_of_the_page() -> None:
    page = html(scene())
    for tag, attributes in Reader(page).tags:
        assert not attributes.keys() & {"src", "href", "srcset", "action", "data"}, tag
    shell = re.sub(r'<script type="text/plain".*?</script>', "", page, flags=re.DOTALL)
    # a name of a vocabulary, which nobody fetches
    assert set(re.findall(r"https?://[^\s\"'`]+", shell)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|WebSocket|innerHTML", shell)


def test_the_same_scene_makes_the_same_page() -> None:
    assert html(scene()) == html(scene())


def test_a_page_in_a_frame_says_so() -> None:
    (_, alone), *_ = Reader(html(scene())).tags
    (_, framed), *_ = Reader(html(scene(), embedded=True)).tags
    assert "data-embedded" not in alone
    assert framed["data-embedded"] == "1"


def test_the_layout_library_comes_with_its_licence() -> None:
    vendor = resources.files("kdgraph.visual").joinpath("page", "vendor")
    assert "EPL-2.0" in vendor.joinpath("NOTICE").read_text()
    assert "Eclipse Public License - v 2.0" in vendor.joinpath("ELK-LICENSE.md").read_text()
    # a page that is passed on says where its parts are from
    assert "elkjs 0.12.1" in html(scene())
    assert "EPL-2.0" in html(scene())
