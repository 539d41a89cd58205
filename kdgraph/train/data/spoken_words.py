"""Words spoken by a synthesiser: speech recognition without a recording."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import wave
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdgraph.errors import DataError
from kdgraph.spec.data import register_data
from kdgraph.spec.types import Count
from kdgraph.train.data.base import DataSet, Splits

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from kdgraph.train.data._split import TensorSplit

_WORDS = (
    "yes", "no", "left", "right", "water", "seven", "music", "open",
    "garden", "stop", "river", "orange", "window", "paper", "morning", "silver",
    "doctor", "happy", "school", "table", "yellow", "number", "winter", "answer",
    "bread", "kitchen", "planet", "summer", "market", "green", "letter", "never",
    "thirty", "friend", "coffee", "street", "mother", "island", "engine", "dollar",
    "simple", "travel", "corner", "butter", "people", "circle", "animal", "finger",
    "forest", "second", "bottle", "castle", "dinner", "flower", "hammer", "jacket",
    "ladder", "minute", "ocean", "pencil", "question", "rabbit", "spring", "thunder",
)  # fmt: skip

# Variants of voices by part; of a numbered family such as steph, steph2, steph3 only one is used.
_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029")
_VOICES = {
    "train": (
        "m1", "f1", "m3", "f2", "m5", "f4", "m7", "Andy", "Alicia", "Denis", "Annie", "Gene",
        "Jacky", "Marco", "anika", "Michael", "belinda", "adam", "linda", "david", "steph",
        "Mario", "Nguyen", "pablo", "sandro", "travis", "victor", "iven", "john", "gustave",
        "boris", "Diogo", "Lee", "Andrea", "zac",
    ),
    "val": ("m2", "f3", "m6", "m8", "paul", "robert"),
    "test": ("m4", "f5", "Hugo", "grandma", "max", "shelby", "caleb", "Mike"),
}  # fmt: skip


@register_data
class SpokenWords(DataSet):
    """``spoken_words``: English words said by espeak-ng, columns for CTC.

    A stand-in for recordings: 64 common words, each said once by every voice, at a speed and a
    pitch of its own, in one of five accents. What is tested is a **voice** never heard: 35 for
    training, 6 for validation, 8 for the test. The words are the same in all parts. Synthesised
    speech is far more regular than people's.

    Columns: ``features`` [T, mels], log-mel frames every 10 ms; ``frames``, how many of them
    count; ``label`` [S], 0 for the blank, 1 for the space, 2 for the apostrophe, 3 to 28 for a to
    z; ``label_length``. All utterances are padded with 0 to the length of the longest.
    """

    use: Literal["spoken_words"] = "spoken_words"

    words: Annotated[Count, Field(le=len(_WORDS))] = len(_WORDS)
    """How many of the words are used, the first of the list."""

    voices: Count | None = None
    """At most this many voices in each part; left out: all."""

    mels: Count = 40
    """Features of a frame."""

    def load(self, folder: Path, trust: Collection[str] = ()) -> Splits:
        program = shutil.which("espeak-ng")
        if program is None:
            raise DataError.of(
                "KD710",
                "spoken_words needs the speech synthesiser espeak-ng, which is not installed",
                help="apt install espeak-ng; recordings of your own: `use: speech_folder`",
            )
        chosen = {part: voices[: self.voices] for part, voices in _VOICES.items()}
        _check(program, {v for voices in chosen.values() for v in voices})
        train, val, test = (self._part(program, part, voices) for part, voices in chosen.items())
        counts = " / ".join(str(len(voices)) for voices in chosen.values())
        note = f"split by synthetic voice, {counts} for training / validation / test; same words"
        return Splits(train, val, test, note)

    def known_rows(self) -> int:
        return self.words * len(_VOICES["train"][: self.voices])

    def _part(self, program: str, part: str, voices: tuple[str, ...]) -> TensorSplit:
        from kdgraph.train.data._speech import numbers, padded
        from kdgraph.train.data._split import TensorSplit, seeded

        words = _WORDS[: self.words]
        manner = seeded("spoken_words", part)
        said = [(w, self._manner(v, at, manner)) for at, v in enumerate(voices) for w in words]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            features = list(pool.map(lambda utterance: self._say(program, *utterance), said))
        return TensorSplit(padded(features, [numbers(word) for word, _ in said]))

    def _manner(self, voice: str, at: int, chance: Generator) -> tuple[str, ...]:
        """Arguments of espeak-ng: who speaks, words per minute, pitch."""
        import torch

        speed, pitch = (
            str(int(torch.randint(*ends, (), generator=chance))) for ends in ((110, 181), (35, 66))
        )
        return ("-v", f"{_ACCENTS[at % len(_ACCENTS)]}+{voice}", "-s", speed, "-p", pitch)

    def _say(self, program: str, word: str, manner: tuple[str, ...]) -> Tensor:
        from kdgraph.train.data._speech import log_mel, read_wave

        # -z: no pause behind the word
        told = subprocess.run([program, "-z", "--stdout", *manner, word], capture_output=True)
        try:
            samples, rate = read_wave(io.BytesIO(told.stdout))
            return log_mel(samples, rate, self.mels)
        except (EOFError, ValueError, RuntimeError, wave.Error) as error:
            said = told.stderr.decode(errors="replace").strip() or error
            raise DataError.of("KD710", f"espeak-ng cannot say {word!r}: {said}") from error


def _check(program: str, needed: set[str]) -> None:
    """Finds voices that are missing; espeak-ng itself would speak with another instead."""
    told = subprocess.run([program, "--voices=variant"], capture_output=True, text=True)
    known = {word.removeprefix("!v/") for word in told.stdout.split() if word.startswith("!v/")}
    if missing := sorted(needed - known):
        raise DataError.of(
            "KD710",
            f"this espeak-ng has no voice {', '.join(missing)}",
            help="version 1.50 and later have them all",
        )
