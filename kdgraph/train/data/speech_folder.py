"""Recordings and their transcripts in folders, as LibriSpeech is laid out."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from kdgraph.errors import DataError
from kdgraph.spec.data import register_data
from kdgraph.spec.types import Count
from kdgraph.train.data.base import DataSet, Splits


@register_data
class SpeechFolder(DataSet):
    """``speech_folder``: ``path/PART/**/*.trans.txt`` beside ``.flac`` or ``.wav`` files.

    LibriSpeech (Panayotov, Chen, Povey, Khudanpur 2015, 10.1109/ICASSP.2015.7178964) as it is
    unpacked: each line of a transcript file is the name of a recording, without its ending, and
    what is said. Wave files are read by Python itself, any others by the package soundfile.
    Columns are those of ``spoken_words``; recordings are read as they are needed, and each batch
    is padded to the longest of its own.
    """

    use: Literal["speech_folder"] = "speech_folder"

    path: str
    """The folder that holds the parts."""

    train: str = "train-clean-100"
    """The folder of the training part."""

    val: str = "dev-clean"
    """The folder of the validation part."""

    test: str | None = "test-clean"
    """The folder of the test part; null: the final figures are those of ``val``."""

    mels: Count = 40
    """Features of a frame."""

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        from kdgraph.train.data._recordings import Recordings, transcripts

        def part(name: str) -> Recordings:
            place = folder / self.path / name
            if not place.is_dir():
                raise DataError.of("KD710", f"there is no folder {place}")
            return Recordings(transcripts(place), self.mels)

        test = None if self.test is None else part(self.test)
        note = "split as the folders are"
        return Splits(part(self.train), part(self.val), test, note)
