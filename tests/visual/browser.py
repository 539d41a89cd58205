"""A headless Chromium that shows pages and tells what they ask of the network."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdgraph.visual import html

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1280,800",
)  # fmt: skip
READY = "return document.documentElement.dataset.ready === '1'"


def programs() -> tuple[str, str] | None:
    """Chromium and its driver, where both are installed."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """One window. What a page does is looked up by the ids and data attributes it keeps."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder, self.shown = driver, folder, 0

    def open(self, scene: Mapping[str, Any], **options: Any) -> None:
        """Shows the page of a scene, from a file, and waits until it is laid out."""
        self.shown += 1
        page = self.folder / f"{self.shown}.html"
        page.write_text(html(scene, **options), encoding="utf-8")
        self.visit(page)

    def visit(self, page: Path) -> None:
        """Shows a page and waits until it is laid out."""
        self.log()  # what the page before has left
        self.requests()
        self.driver.get(page.as_uri())
        self.wait()

    def resize(self, width: int, height: int, sharpness: float = 1) -> None:
        """The size of the window's inside, and the pixels of a picture for each of it."""
        size = {"width": width, "height": height, "deviceScaleFactor": sharpness, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def settle(self) -> None:
        """Until what was asked for is painted."""
        frame = "const done = arguments[0], next = requestAnimationFrame; next(() => next(done))"
        self.driver.execute_async_script(frame)

    def scheme(self, name: str) -> None:
        """What the reader's system prefers: ``light`` or ``dark``."""
        media = {"features": [{"name": "prefers-color-scheme", "value": name}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def wait(self, until: str = READY) -> None:
        """Until a script returns true; a page that is never ready fails here."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60, 0.02).until(lambda d: d.execute_script(until), until)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        """The one element of a CSS selector."""
        (found,) = self.driver.find_elements("css selector", selector)
        return found

    def count(self, selector: str) -> int:
        """How many elements a CSS selector finds."""
        return int(self.run("return document.querySelectorAll(arguments[0]).length", selector))

    def text(self, selector: str) -> str:
        """The text of an element."""
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def click(self, selector: str) -> None:
        """A true click in the middle of an element, and the layout that may follow."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver, duration=0).move_to_element(self.find(selector)).click().perform()
        self.wait()

    def leave(self) -> None:
        """Takes the mouse off the page's parts."""
        place = {"type": "mouseMoved", "x": 1, "y": 1}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", place)

    def press(self, keys: str, selector: str | None = None) -> None:
        """Keys to an element, by default to what has the focus."""
        target = self.find(selector) if selector else self.driver.switch_to.active_element
        target.send_keys(keys)
        self.wait()

    def facts(self) -> dict[str, str]:
        """What the panel says, by term."""
        rows = "return Array.from(document.querySelectorAll('#facts [data-fact]'), "
        pairs: list[list[str]] = self.run(rows + "d => [d.dataset.fact, d.textContent])")
        return dict(pairs)

    def ids(self, selector: str) -> set[str]:
        """The ids of drawn elements."""
        script = "return Array.from(document.querySelectorAll(arguments[0]), e => e.dataset.id)"
        return set(self.run(script, selector))

    def log(self) -> list[str]:
        """What the console has said since this was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since this was last asked; not the page itself, nor its own parts."""
        sent = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                params = message["params"]
                sent.append(params.get("request", params)["url"])
        own = ("blob:", "data:", self.folder.as_uri())
        return [address for address in sent if not address.startswith(own)]

    def downloaded(self, name: str) -> Path:
        """A file that the page has saved; Chromium gives it its name when it is whole."""
        from selenium.webdriver.support.ui import WebDriverWait

        path = self.folder / "saved" / name
        WebDriverWait(self.driver, 30, 0.02).until(lambda _: path.is_file(), f"no {path}")
        return path


@contextmanager
def chromium(browser: str, driver: str) -> Iterator[Browser]:
    """A browser for a while; it may not come by itself and is closed at the end."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory() as folder:
        started = webdriver.Chrome(options=options, service=Service(driver))
        try:
            saved = {"behavior": "allow", "downloadPath": f"{folder}/saved"}
            started.execute_cdp_cmd("Browser.setDownloadBehavior", saved)
            yield Browser(started, Path(folder))
        finally:
            started.quit()
