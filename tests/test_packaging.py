"""What is installed is what lies on disk: kernels/, cli/ and specs/ mapped, nothing twice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAPPED = ("kernels", "cli", "specs")
BUILT_FROM = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "kdgraph", *MAPPED)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_checkout(target: Path) -> Path:
    """The tree that is built from, so that nothing is left behind in the real one."""
    target.mkdir()
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=leave)
        else:
            shutil.copy(ROOT / name, target / name)
    return target


def build(checkout: Path, *kinds: str) -> Path:
    """Builds into ``checkout/dist``, with the setuptools of this environment: no network."""
    run(sys.executable, "-m", "build", "--no-isolation", *kinds, cwd=checkout)
    return checkout / "dist"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions; the wheel is built from the sdist, as pip does."""
    return build(copy_checkout(tmp_path_factory.mktemp("dist") / "checkout"))


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


def content(wheel: Path) -> set[str]:
    """Names of the files that a wheel installs."""
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    return {name for name in names if ".dist-info/" not in name}


def on_disk() -> set[str]:
    """Names under which every file of the package should be installed."""
    links = [ROOT / "kdgraph" / name for name in MAPPED]  # a file where git may not write links
    places = {"kdgraph": ROOT / "kdgraph"} | {f"kdgraph/{name}": ROOT / name for name in MAPPED}
    return {
        f"{prefix}/{path.relative_to(folder).as_posix()}"
        for prefix, folder in places.items()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__" and path not in links
    }


def test_wheel_holds_every_file_once(wheel: Path) -> None:
    # A file that is on disk only: a folder without __init__.py, or a suffix that
    # [tool.setuptools.package-data] does not name.
    assert content(wheel) == on_disk()


def test_every_folder_with_code_is_a_package() -> None:
    folders = {Path(name).parent for name in on_disk() if name.endswith(".py")}
    assert [f for f in folders if f"{f.as_posix()}/__init__.py" not in on_disk()] == []


def test_sdist_holds_every_file_once(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert not [m.name for m in members if m.issym() or m.islnk()]
    names = {m.name.split("/", 1)[-1] for m in members if m.isfile()}
    expected = {re.sub(rf"^kdgraph/({'|'.join(MAPPED)})/", r"\1/", name) for name in on_disk()}
    mine = {name for name in names if name.split("/")[0] in ("kdgraph", *MAPPED)}
    assert mine == expected


def test_checkout_without_links_builds_the_same(wheel: Path, tmp_path: Path) -> None:
    # Where git may not write links it writes a file with the target as its text.
    checkout = copy_checkout(tmp_path / "checkout")
    for name in MAPPED:
        (checkout / "kdgraph" / name).unlink()
        (checkout / "kdgraph" / name).write_text(f"../{name}")
    (other,) = build(checkout, "--wheel").glob("*.whl")
    assert content(other) == content(wheel)


def test_wheel_says_what_pyproject_says(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    metadata = archive.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    for extra in PROJECT["optional-dependencies"]:
        assert f"Provides-Extra: {extra}\n" in metadata
    assert "kdgraph = kdgraph.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()
    assert archive.read(f"{info}/top_level.txt").decode().split() == ["kdgraph"]


def test_installed_wheel_runs_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile")
    run(*pip, "--target", site, wheel, cwd=empty)

    def python(*arguments: str) -> str:
        return run(sys.executable, "-P", *arguments, cwd=empty, PYTHONPATH=str(site))

    where = "import kdgraph.kernels, kdgraph.specs as s; print(s.__file__)"
    assert Path(python("-c", where).strip()) == site / "kdgraph" / "specs" / "__init__.py"
    assert "Usage:" in python("-m", "kdgraph", "--help")
    script = run(site / "bin" / "kdgraph", "--help", cwd=empty, PYTHONPATH=str(site))
    assert "Usage:" in script


def test_bare_names_at_the_root_load_nothing() -> None:
    # transformers probes for a distribution called "kernels" by importing it.
    probe = "import kernels; print([n for n in vars(kernels) if not n.startswith('__')])"
    assert run(sys.executable, "-c", probe, cwd=ROOT, PYTHONPATH=str(ROOT)).strip() == "[]"
    for name in ("cli", "specs"):
        attempt = f"try: import {name}\nexcept ImportError as error: print(error)"
        said = run(sys.executable, "-c", attempt, cwd=ROOT, PYTHONPATH=str(ROOT))
        assert f"import kdgraph.{name}" in said


def pinned() -> dict[str, str]:
    """constraints.txt, from normalised name to version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins), "a pin is NAME==VERSION, nothing else"
    return {normal(name): version for name, version in pins}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_pin_every_dependency() -> None:
    asked = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    names = {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in asked}
    assert names - {"kdgraph"} - pinned().keys() == set()


def test_constraints_name_no_place() -> None:
    assert not re.search(
        r"[/@+:]", re.sub(r"(?m)^#.*$", "", (ROOT / "constraints.txt").read_text())
    )


def test_extra_all_holds_the_others_but_the_tools() -> None:
    (everything,) = PROJECT["optional-dependencies"]["all"]
    extras = set(re.findall(r"\w+", everything.removeprefix("kdgraph")))
    # torchao is imported, and heard, by transformers wherever it is installed
    others = {"all", "dev", "bench", "int8"}
    assert extras == PROJECT["optional-dependencies"].keys() - others
