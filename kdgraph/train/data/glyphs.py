"""Letters and digits drawn from the fonts of this machine."""

from __future__ import annotations

import os
import string
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.errors import DataError
from kdgraph.spec.data import Normalise, register_data
from kdgraph.spec.types import Count
from kdgraph.train.data.base import DataSet, Splits, library

if TYPE_CHECKING:
    from torch import Tensor

_CASED = string.digits + string.ascii_uppercase + string.ascii_lowercase
_NONE = "\U0010ffff"  # no font has it, so it is drawn as the font's sign for "missing"
_SHARES = (0.1, 0.3)  # of the families: validation up to the first, test up to the second


@register_data
class Glyphs(DataSet):
    """``glyphs``: images [1, size, size] of 0-9 A-Z a-z, columns ``image`` and ``label``.

    White on black, at the baseline and in true proportion. Families of fonts, never single
    fonts, are split: about 10% for validation and 20% for the test, so that what is tested is
    a design never seen. A font that lacks a sign, or draws capitals and small letters alike
    where they are told apart, is left out. The data depends on the fonts that are installed;
    the note of a result says how many there were.
    """

    use: Literal["glyphs"] = "glyphs"

    classes: Literal[36, 62] = 62
    """62 tells capitals from small letters; 36 puts both into one class."""

    size: Count = 28
    """Height and width of an image in pixels."""

    path: str | None = None
    """A folder of fonts; left out: the folders where this system keeps fonts."""

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        import torch

        from kdgraph.train.data._split import TensorSplit, seeded

        families: dict[str, list[Tensor]] = {}
        for family, drawn in self._fonts([folder / self.path] if self.path else _folders()):
            families.setdefault(family, []).append(drawn)
        if len(families) < 3:
            raise DataError.of(
                "KD710",
                f"glyphs needs fonts of 3 families at the least; found {len(families)}",
                help="install fonts (on Debian: apt install fonts-dejavu fonts-liberation), "
                "or give a folder of them as `path`",
            )
        names = sorted(families)
        order = torch.randperm(len(names), generator=seeded("glyphs", self.split_seed)).tolist()
        ends = [max(at, round(share * len(names))) for at, share in enumerate(_SHARES, start=1)]
        parts = [order[ends[1] :], order[: ends[0]], order[ends[0] : ends[1]]]
        label = torch.tensor([i if i < 36 or self.classes == 62 else i - 26 for i in range(62)])
        splits = []
        for part in parts:
            image = torch.cat([d for i in part for d in families[names[i]]]).unsqueeze(1)
            splits.append(TensorSplit({"image": image, "label": label.repeat(len(image) // 62)}))
        counts = " / ".join(str(len(p)) for p in parts)
        note = f"split by family of fonts, {counts} families for training / validation / test"
        return Splits(splits[0], splits[1], splits[2], note)

    def scaling(self) -> Normalise | None:
        return self.normalise or Normalise(mean=(0.5,), std=(0.5,))

    def _fonts(self, folders: list[Path]) -> Iterator[tuple[str, Tensor]]:
        """Family and images [62, size, size] of every usable font."""
        pillow = library("PIL.ImageFont", "glyphs", "train")
        found = (p for folder in folders for p in folder.rglob("*") if _is_font(p))
        seen: set[tuple[str, str]] = set()
        for path in sorted(found):
            try:
                font = pillow.truetype(str(path), round(0.75 * self.size))
                family, style = font.getname()
                if family is None or (family, str(style)) in seen:
                    continue
                drawn = self._draw(font)
            except OSError:  # not a font after all, or one that FreeType cannot draw
                continue
            if drawn is not None:
                seen.add((family, str(style)))
                yield family, drawn

    def _draw(self, font: Any) -> Tensor | None:
        import torch
        from PIL import Image, ImageDraw

        def draw(text: str) -> Tensor:
            image = Image.new("L", (self.size, self.size))
            # "ms": centred, standing on the baseline
            place = (self.size / 2, 0.76 * self.size)
            ImageDraw.Draw(image).text(place, text, fill=255, font=font, anchor="ms")
            data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            return data.view(self.size, self.size)

        missing = draw(_NONE)
        signs = [draw(c) for c in _CASED]
        if any(torch.equal(s, missing) or not s.any() for s in signs):
            return None
        unicase = all(torch.equal(signs[10 + i], signs[36 + i]) for i in range(26))
        return None if unicase and self.classes == 62 else torch.stack(signs)


def _is_font(path: Path) -> bool:
    return path.suffix.lower() in (".ttf", ".otf")


def _folders() -> list[Path]:
    """Where this system keeps its fonts."""
    home = Path.home()
    if sys.platform == "darwin":
        places = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    elif os.name == "nt":
        places = [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
    else:
        places = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".fonts",
                  home / ".local/share/fonts"]  # fmt: skip
    return [p for p in places if p.is_dir()]
