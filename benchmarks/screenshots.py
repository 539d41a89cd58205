"""Pictures of the interactive page for the documentation, taken in a headless Chromium.

    python benchmarks/screenshots.py
    python benchmarks/screenshots.py --output look --sizes 1280x800 1920x1080 --themes light dark

Without sizes and themes each picture is taken once, as it stands in the documentation.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# where PYTHONSAFEPATH is set, the folder of a script is not on the path
sys.path.append(str(Path(__file__).parents[1]))

import kdgraph
from tests.visual.browser import Browser, chromium, programs

ROOT = Path(__file__).resolve().parents[1]
SCREENS = ROOT / "benchmarks" / "screens"
SHARPNESS = 1.5  # pixels of the picture for one of the page


@dataclass(frozen=True)
class Shot:
    """A picture: of which spec, and what is done on its page before it is taken."""

    name: str
    spec: str
    book: bool = False
    size: str = "1280x800"
    theme: str = "light"
    progress: int = 0
    unfold: tuple[str, ...] = ()
    select: str | None = None


SHOTS = (
    Shot("draw_cnn", "cnn.yaml", progress=10, select="losses_hint"),
    Shot(
        "draw_vit",
        "vit.yaml",
        size="1280x1080",
        unfold=("student:blocks.1",),
        select="adapters_early",
    ),
    Shot("draw_teachers", "teachers_book.yaml", theme="dark", progress=25, select="signals_target"),
    Shot("draw_book", "teachers_book.yaml", book=True, progress=25),
)


def main() -> None:
    """Takes every picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument(
        "--sizes",
        nargs="+",
    )
    parser.add_argument("--themes", nargs="+", choices=("light", "dark"))
    parser.add_argument("--only", nargs="+", choices=[shot.name for shot in SHOTS])
    options = parser.parse_args()
    found = programs()
    if found is None:
        sys.exit("needs the system packages chromium and chromium-driver")
    options.output = options.output.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)  # pages name the lines of specs as they are written here
    shots = [s for s in SHOTS if not options.only or s.name in options.only]
    with chromium(*found) as browser, tempfile.TemporaryDirectory() as scratch:
        for shot in shots:
            page = draw(shot, Path(scratch))
            for path, size, theme in files(shot, options):
                take(browser, page, shot, size, theme, path)
                print(path)


def files(shot: Shot, options: argparse.Namespace) -> Iterator[tuple[Path, str, str]]:
    """Where a picture goes, and at which size and in which theme it is taken."""
    for size in options.sizes or [shot.size]:
        for theme in options.themes or [shot.theme]:
            several = options.sizes or options.themes
            tail = f"_{size}_{theme}" if several else ""
            yield options.output / f"{shot.name}{tail}.png", size, theme


def draw(shot: Shot, scratch: Path) -> Path:
    """The page of a spec; with a book, from one that is built first."""
    spec = (SCREENS / shot.spec).relative_to(ROOT)
    book = scratch / f"{shot.name}.book" if shot.book else None
    if book is not None:
        build = ("-m", "kdgraph", "book", "build", str(spec), "-o", str(book))
        subprocess.run([sys.executable, *build], check=True, capture_output=True)
    drawn = kdgraph.draw(spec, book=None if book is None else str(book))
    return drawn.save(scratch / f"{shot.name}.html")


def take(browser: Browser, page: Path, shot: Shot, size: str, theme: str, path: Path) -> None:
    """Opens the page, does what the shot says, and writes the picture."""
    width, height = map(int, size.split("x"))
    browser.resize(width, height, SHARPNESS)
    browser.scheme(theme)
    browser.visit(page)
    for box in shot.unfold:
        browser.click(f"#world [data-id='{box}'] .chevron")
    browser.click("#zoom-fit")
    if shot.select is not None:
        browser.click(f"#world [data-id='{shot.select}']")
    slide = "const s = document.getElementById('progress'); s.value = arguments[0];"
    browser.run(slide + "s.dispatchEvent(new Event('input'))", shot.progress)
    browser.leave()
    browser.settle()
    browser.driver.save_screenshot(str(path))


if __name__ == "__main__":
    main()
