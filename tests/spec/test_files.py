"""Files that a spec names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kdgraph.spec.files import check_weights
from kdgraph.spec.read import load_spec


@pytest.fixture
def text(good: str, folder: Path) -> str:
    """The good spec, in a folder with one weights file and one folder of them."""
    Path("runs").mkdir()
    for file in ("there.pt", "runs/last.pth", "runs/notes.txt"):
        Path(file).touch()
    return good


@pytest.mark.parametrize(
    ("written", "message", "help"),
    [
        ("ther.pt", "there is no weights file 'ther.pt'", "did you mean 'there.pt'?"),
        ("no/such.pt", "there is no weights file 'no/such.pt'", None),
        ("runs", "'runs' is a folder, not a weights file", "it holds last.pth"),
        (
            "runs/notes.txt",
            "'runs/notes.txt' is no weights file",
            "its name must end in .safetensors, .pt or .pth",
        ),
        ("x" * 300 + ".pt", f"there is no weights file '{'x' * 300}.pt'", None),
    ],
)
def test_weights_that_are_not_there(
    text: str, written: str, message: str, help: str | None
) -> None:
    spec = load_spec(text.replace("teacher.safetensors", written))
    (found,) = check_weights(spec)
    assert (found.code, found.message, found.help) == ("KD415", message, help)
    assert str(found.span) == "<text>:12:14"
    assert check_weights(spec, given={"teacher"}) == []


def test_weights_start_from_the_folder_of_the_spec(text: str, folder: Path) -> None:
    text = text.replace("teacher.safetensors", "there.pt")
    Path("runs/kd.yaml").write_text(text, encoding="utf-8")
    assert check_weights(load_spec(text)) == []
    assert check_weights(load_spec(yaml.safe_load(text))) == []
    (found,) = check_weights(load_spec("runs/kd.yaml"))
    assert found.message == "there is no weights file 'runs/there.pt'"
    absolute = text.replace("there.pt", str(folder / "there.pt"))
    Path("runs/kd.yaml").write_text(absolute, encoding="utf-8")
    assert check_weights(load_spec("runs/kd.yaml")) == []
