"""What tells training rows apart: all of them in memory, names and sizes of their files else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from kdgraph.train.data._classes import Renumbered
from kdgraph.train.data._split import Split, TensorSplit
from kdgraph.train.data._syntax import Highlighted
from kdgraph.train.data._text import Windows
from kdgraph.train.data.imagefolder import ImageFolder
from kdgraph.train.provenance import content

ROWS = 1000


def of_tensors(at: int) -> Split:
    rows = torch.zeros(ROWS, 2)
    rows[at] = 1
    whole = TensorSplit({"image": rows, "label": torch.zeros(ROWS, dtype=torch.int64)})
    return Renumbered(whole, torch.tensor([0])).subset(torch.arange(ROWS))


def of_text(at: int) -> Split:
    text = bytearray(b"a" * (8 * ROWS + 1))
    text[8 * at + 3] = ord("b")
    return Windows.of([bytes(text)], 8)


def of_syntax(at: int) -> Split:
    kind = bytearray(8 * ROWS + 1)
    kind[8 * at + 3] = 1
    return Highlighted.of([(b"a" * len(kind), bytes(kind))], 8)


@pytest.mark.parametrize("make", [of_tensors, of_text, of_syntax])
def test_any_row_in_memory_counts(make: object) -> None:
    assert callable(make)
    made = [content(make(at)) for at in (1, 1, 2, 3, 999)]
    assert made[0] == made[1]
    assert len(set(made)) == 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """600 images of one class, each larger than the one before it."""
    for part, count in (("train", 600), ("val", 1)):
        place = tmp_path / "one" / part / "a"
        place.mkdir(parents=True)
        for at in range(count):
            Image.new("L", (2, 2), at % 256).save(place / f"{at:03}.bmp")
            with (place / f"{at:03}.bmp").open("ab") as file:
                file.write(b" " * at)
    return tmp_path / "one"


def of_folder(folder: Path) -> str:
    train = ImageFolder(path=".", size=2).load(folder).train
    return content(train.subset(torch.arange(1, 600)))


def test_any_file_counts(folder: Path, tmp_path: Path) -> None:
    before = of_folder(folder)
    place = folder / "train" / "a"
    first = place / "000.bmp"  # left out
    first.write_bytes(first.read_bytes() + b" ")
    assert of_folder(folder) == before
    for at in (300, 301, 302, 303):  # of which 256 rows leave at least two out
        file = place / f"{at}.bmp"
        data = file.read_bytes()
        file.write_bytes(data + b" ")
        assert of_folder(folder) != before
        file.write_bytes(data)
        file.rename(place / f"{at}x.bmp")
        assert of_folder(folder) != before
        (place / f"{at}x.bmp").rename(file)
    folder.rename(tmp_path / "two")
    assert of_folder(tmp_path / "two") == before
