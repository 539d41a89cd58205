"""Recordings on disk with their words, read a batch at a time."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdgraph.errors import DataError
from kdgraph.train.data._speech import log_mel, numbers, padded, read_wave
from kdgraph.train.data._split import Split
from kdgraph.train.data.base import library

_ENDINGS = (".wav", ".flac")


@dataclass(frozen=True)
class Utterance:
    """A recording and the classes [S] of what is said."""

    path: Path
    label: Tensor


def transcripts(folder: Path) -> list[Utterance]:
    """Every utterance of the ``*.trans.txt`` files below a folder.

    Raises:
        DataError: KD719 for a line without a recording or with other signs than letters.
    """
    found = []
    for file in sorted(folder.rglob("*.trans.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            name, _, words = line.strip().partition(" ")
            if not name:
                continue
            paths = [file.parent / f"{name}{ending}" for ending in _ENDINGS]
            path = next((p for p in paths if p.exists()), None)
            if path is None:
                raise DataError.of("KD719", f"{file} speaks of {name}, but there is no {paths[0]}")
            try:
                found.append(Utterance(path, numbers(words.strip())))
            except ValueError as error:
                raise DataError.of("KD719", f"{file}: {error}") from error
    return found


class Recordings(Split):
    """Utterances as log-mel frames, each batch padded to its longest."""

    def __init__(self, utterances: Sequence[Utterance], mels: int) -> None:
        self.utterances, self.mels = utterances, mels

    @property
    def columns(self) -> tuple[str, ...]:
        return ("features", "frames", "label", "label_length")

    def __len__(self) -> int:
        return len(self.utterances)

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        chosen = [self.utterances[i] for i in indices]
        features = [log_mel(*samples(u.path), self.mels) for u in chosen]
        return padded(features, [u.label for u in chosen])

    def files(self) -> list[Path]:
        return [u.path for u in self.utterances]

    def subset(self, indices: Tensor) -> Recordings:
        return Recordings([self.utterances[i] for i in indices.tolist()], self.mels)


def samples(path: Path) -> tuple[Tensor, int]:
    """Samples [N] of a recording, and their number per second.

    Raises:
        DataError: KD710 when it cannot be read, or what reads it is not installed.
    """
    try:
        if path.suffix == ".wav":
            return read_wave(str(path))
        data, rate = library("soundfile", path.name, "speech").read(
            str(path), dtype="float32", always_2d=True
        )
        return torch.from_numpy(data).mean(1), rate
    except (OSError, EOFError, ValueError, RuntimeError, wave.Error) as error:
        raise DataError.of("KD710", f"{path} cannot be read: {error}") from error
