"""What a spec may have run or built: nothing that was not trusted, nothing without end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from kdgraph.errors import DataError, KDGraphError
from kdgraph.models.load import build_model, build_skeleton
from kdgraph.train.data.python import PythonData
from tests.hostile.press import FINE, Outcome, press

LAB = """
from os import mkdir, system
from subprocess import run
from torch import nn
from torch.nn import Identity
import os

def net(width=2):
    return nn.Linear(width, 2)

class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)

def parts():
    return {}
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that write down that they were imported."""
    for name in ("hlab", "hlab_twin", "hlabs"):
        (tmp_path / name).mkdir()
        noted = f"open({str(tmp_path / f'imported-{name}')!r}, 'w').close()\n"
        (tmp_path / name / "__init__.py").write_text(noted + "from hlab.nets import Net\n")
        (tmp_path / name / "nets.py").write_text(LAB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in [n for n in sys.modules if n.startswith("hlab")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


TRUSTED = ["hlab"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("hlab_twin:Net", "KD412"),
        ("hlabs:Net", "KD412"),
        ("hlab.nets:Net", "KD412"),
        ("hla:Net", "KD412"),
        ("os:system", "KD412"),
        ("hlab\u0430:Net", "KD410"),
        ("hl\u0430b:Net", "KD410"),
        ("\uff48lab:Net", "KD410"),
        ("hlab.:Net", "KD410"),
        (".hlab:Net", "KD410"),
        ("hlab/nets:Net", "KD410"),
        ("hlab;os:system", "KD410"),
        ("hlab:nets.system", "KD410"),
        ("hlab:__class__", "KD410"),
        ("hlab:__builtins__", "KD410"),
        ("hlab:__import__", "KD410"),
    ],
)
def test_trust_is_of_one_module_by_its_whole_name(lab: Path, name: str, code: str) -> None:
    for build in (build_model, build_skeleton):
        with pytest.raises(KDGraphError, match=code):
            build(f"python/{name}", {}, trust=TRUSTED)
    assert not list(lab.glob("imported-*"))


def test_trust_that_is_a_word_is_not_looked_for_letters_in(lab: Path) -> None:
    with pytest.raises(KDGraphError, match="KD412"):
        build_model("python/hla:Net", {}, trust="hlab")
    with pytest.raises(DataError, match="not trusted"):
        PythonData(call="hla:parts").load(Path(), trust="hlab")
    assert not list(lab.glob("imported-*"))


@pytest.mark.parametrize(
    ("attribute", "args", "home"),
    [
        ("system", {"command": "touch pwned"}, "posix"),
        ("run", {"args": "touch pwned", "shell": True}, "subprocess"),
        ("mkdir", {"path": "pwned"}, "posix"),
        ("Identity", {}, "torch.nn.modules.linear"),
    ],
)
def test_what_a_trusted_module_imports_is_not_trusted(
    lab: Path, attribute: str, args: dict[str, object], home: str
) -> None:
    """A spec of somebody else's would call ``subprocess.run`` through the user's own module."""
    with pytest.raises(KDGraphError, match=rf"KD412.*defined in {home!r}"):
        build_model(f"python/hlab.nets:{attribute}", args, trust=["hlab.nets"])
    with pytest.raises(DataError, match=rf"KD710.*defined in {home!r}"):
        PythonData(call=f"hlab.nets:{attribute}", args=args).load(Path(), trust=["hlab.nets"])
    assert not (lab / "pwned").exists()


@pytest.mark.parametrize("name", ["hlab.nets:net", "hlab.nets:Net", "hlab:Net"])
def test_what_is_defined_in_it_or_below_is(lab: Path, name: str) -> None:
    build_model(f"python/{name}", {}, trust=[name.partition(":")[0]])


class Case(NamedTuple):
    """The teacher's source and args, and what is to come of ``kdgraph check``."""

    source: str
    args: str
    code: str
    said: str = ""


BUILT = {
    "no trust": Case("python/os:system", "{command: touch pwned}", "KD412", "--trust os"),
    "terabytes of width": Case("cifar/resnet8", "{width: 1000000000}", "KD413"),
    "a billion layers by name": Case("cifar/resnet6000000002", "{}", "KD411"),
    "a million layers by name": Case("cifar/wrn-600004-1", "{}", "KD411"),
}


@pytest.mark.parametrize(
    ("limit", "most", "said"),
    [("_MODULES", 90, "more than 90 modules"), ("_CALLS", 1_000, "more than 1,000 calls")],
)
def test_layers_without_end(
    limit: str, most: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a library makes of ``args``, such as a billion layers."""
    monkeypatch.setattr(f"kdgraph.models.nets.no_init.{limit}", most)
    build_skeleton("cifar/resnet8", {})
    with pytest.raises(KDGraphError, match=f"KD413.*{said}"):
        build_skeleton("cifar/resnet110", {})
    monkeypatch.undo()
    build_skeleton("cifar/resnet110", {})


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What ``kdgraph check`` makes of each case."""
    scratch = tmp_path_factory.mktemp("sources")
    runs: list[tuple[Path, Sequence[str]]] = []
    for number, case in enumerate(BUILT.values()):
        folder = scratch / str(number)
        folder.mkdir()
        text = FINE.replace("cifar/resnet8", case.source, 1)
        text = text.replace("{in_channels: 1, width: 0.25}", case.args, 1)
        (folder / "spec.yaml").write_text(text, encoding="utf-8")
        runs.append((folder, ["check", "spec.yaml"]))
    return dict(zip(BUILT, press(scratch, runs), strict=True))


@pytest.mark.parametrize("name", BUILT)
def test_what_cannot_be_built_is_refused(name: str, outcomes: dict[str, Outcome]) -> None:
    outcomes[name].assert_refused(BUILT[name].code, BUILT[name].said)
