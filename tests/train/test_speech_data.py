"""Speech as data: features, transcripts, synthesised words, folders of recordings."""

from __future__ import annotations

import math
import shutil
import struct
import wave
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdgraph.errors import DataError
from kdgraph.train.data._speech import ALPHABET, filters, log_mel, numbers, padded, pcm, read_wave
from kdgraph.train.data.speech_folder import SpeechFolder
from kdgraph.train.data.spoken_words import _VOICES, _WORDS, SpokenWords


def tone(hertz: float, rate: int = 16000, seconds: float = 0.2) -> Tensor:
    return (torch.arange(int(rate * seconds)) * (2 * math.pi * hertz / rate)).sin() / 2


def write(path: Path, samples: Tensor, rate: int = 16000, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).to(torch.int16).numpy().tobytes())


def test_letters() -> None:
    assert len(ALPHABET) == 28
    assert numbers("Don't go").tolist() == [6, 17, 16, 2, 22, 1, 9, 17]
    with pytest.raises(ValueError, match="'7'"):
        numbers("route 7")


def test_filters_are_triangles_in_mel() -> None:
    bank = filters(16000, 512, 40)
    assert bank.shape == (257, 40)
    assert bank.min() >= 0
    assert bank.max() <= 1
    centres = (bank * torch.linspace(0, 8000, 257).unsqueeze(1)).sum(0) / bank.sum(0)
    mel = 2595 * (1 + centres / 700).log10()
    steps = mel[11:].diff()  # the lowest are narrower than the spectrum's own steps
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=0.1, atol=0)


@pytest.mark.parametrize("rate", [16000, 22050, 44100])
def test_a_tone_is_loudest_in_its_band_at_any_rate(rate: int) -> None:
    """The first half is one tone, the second another: each band is up where its tone is."""
    low, high = tone(500, rate), tone(3000, rate)
    features = log_mel(torch.cat([low, high]), rate, 40)
    assert abs(len(features) - 38) <= 1  # 0.4 s in steps of 10 ms, less the last window
    mels = [2595 * math.log10(1 + f / 700) for f in (20, 7600, 500, 3000)]
    bands = [round((m - mels[0]) / (mels[1] - mels[0]) * 41) - 1 for m in mels[2:]]
    first, second = features[:15].mean(0), features[-15:].mean(0)
    assert first[bands[0]] > 0.8 > 0 > second[bands[0]]
    assert second[bands[1]] > 0.8 > 0 > first[bands[1]]


def test_features_do_not_depend_on_loudness_and_silence_is_finite() -> None:
    x = tone(700) * torch.rand(3200)
    torch.testing.assert_close(
        log_mel(x * 0.01, 16000, 20), log_mel(x, 16000, 20), rtol=0, atol=1e-3
    )
    torch.testing.assert_close(log_mel(x, 16000, 20).mean(0), torch.zeros(20), rtol=0, atol=1e-4)
    for silence in (torch.zeros(3200), torch.zeros(3)):
        assert torch.equal(log_mel(silence, 16000, 20).abs().max(), torch.tensor(0.0))


@pytest.mark.parametrize(
    ("data", "width"),
    [
        (bytes([128, 192, 0]), 1),
        (struct.pack("<3h", 0, 2**14, -(2**15)), 2),
        (b"\0\0\0" + b"\0\0\x40" + b"\0\0\x80", 3),
        (struct.pack("<3i", 0, 2**30, -(2**31)), 4),
    ],
)
def test_samples_of_every_width(data: bytes, width: int) -> None:
    assert pcm(data, width).tolist() == [0.0, 0.5, -1.0]


def test_channels_are_averaged(tmp_path: Path) -> None:
    write(tmp_path / "two.wav", torch.tensor([0.5, 0.0, 0.5, 0.0]), channels=2)
    samples, rate = read_wave(str(tmp_path / "two.wav"))
    assert rate == 16000
    assert samples.tolist() == pytest.approx([0.25, 0.25], abs=1e-4)


def test_batches_are_padded_with_nothing() -> None:
    batch = padded([torch.ones(2, 3), torch.ones(4, 3)], [numbers("ab"), numbers("a")])
    assert batch["features"].shape == (2, 4, 3)
    assert batch["features"][0, 2:].abs().sum() == 0
    assert batch["frames"].tolist() == [2, 4]
    assert batch["label"].tolist() == [[3, 4], [3, 0]]
    assert batch["label_length"].tolist() == [2, 1]
    assert {x.dtype for n, x in batch.items() if n != "features"} == {torch.int64}


def test_words_and_voices_are_distinct() -> None:
    voices = [voice for part in _VOICES.values() for voice in part]
    assert len(set(voices)) == len(voices)
    assert len(set(_WORDS)) == len(_WORDS)
    assert set("".join(_WORDS)) <= set(ALPHABET)


def test_spoken_words(require_system: Any) -> None:
    require_system("espeak-ng", shutil.which("espeak-ng"))
    data = SpokenWords(words=2, voices=2, mels=20)
    splits = data.load(Path())
    assert splits.test is not None
    for part in (splits.train, splits.val, splits.test):
        assert part.columns == ("features", "frames", "label", "label_length")
        assert len(part) == 4
    batch = splits.train.rows([0, 1, 2, 3])
    assert batch["features"].shape[2] == 20
    assert batch["features"].isfinite().all()
    assert batch["frames"].max() == batch["features"].shape[1]
    assert batch["label"].tolist() == [[27, 7, 21], [16, 17, 0]] * 2  # yes, no
    assert batch["label_length"].tolist() == [3, 2, 3, 2]
    assert not torch.equal(batch["features"][0], batch["features"][2])  # another voice
    again = data.load(Path()).train.rows([0, 1, 2, 3])
    assert all(torch.equal(again[name], batch[name]) for name in batch)


def test_without_a_synthesiser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match=r"KD710[\s\S]*apt install espeak-ng"):
        SpokenWords().load(Path())


def test_a_voice_that_is_missing_is_not_replaced(
    require_system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_system("espeak-ng", shutil.which("espeak-ng"))
    monkeypatch.setitem(_VOICES, "val", ("nobody",))
    with pytest.raises(DataError, match=r"KD710.*no voice nobody"):
        SpokenWords(words=1, voices=1).load(Path())


@pytest.fixture(name="corpus")
def _corpus(tmp_path: Path) -> Path:
    """Three parts of one chapter each, of tones that are called words."""
    for part in ("train-clean-100", "dev-clean", "test-clean"):
        chapter = tmp_path / part / "19" / "198"
        chapter.mkdir(parents=True)
        lines = []
        for at, (text, seconds) in enumerate([("A BEE", 0.3), ("DON'T", 0.2)]):
            write(chapter / f"19-198-{at:04d}.wav", tone(400 + 100 * at, seconds=seconds))
            lines.append(f"19-198-{at:04d} {text}")
        (chapter / "19-198.trans.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_speech_folder(corpus: Path) -> None:
    splits = SpeechFolder(path=".", mels=10).load(corpus)
    assert splits.test is not None
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [2, 2, 2]
    batch = splits.train.rows([0, 1])
    assert batch["frames"].tolist() == [28, 18]
    assert batch["features"].shape == (2, 28, 10)
    assert batch["label"].tolist() == [[3, 1, 4, 7, 7], [6, 17, 16, 2, 22]]
    only = splits.train.subset(torch.tensor([1])).rows([0])
    assert only["features"].shape == (1, 18, 10)
    assert SpeechFolder(path=".", test=None).load(corpus).test is None


def test_flac_is_read_by_soundfile(corpus: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    chapter = corpus / "dev-clean" / "19" / "198"
    first = chapter / "19-198-0000.wav"
    samples, rate = read_wave(str(first))
    expected = log_mel(samples, rate, 10)
    soundfile.write(str(first.with_suffix(".flac")), samples.numpy(), rate)
    first.unlink()
    batch = SpeechFolder(path=".", mels=10).load(corpus).val.rows([0])
    torch.testing.assert_close(batch["features"][0], expected, rtol=0, atol=1e-2)


def test_what_a_folder_lacks(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"KD710.*no folder"):
        SpeechFolder(path="elsewhere").load(corpus)
    chapter = corpus / "dev-clean" / "19" / "198"
    (chapter / "19-198-0001.wav").write_bytes(b"no sound")
    splits = SpeechFolder(path=".").load(corpus)
    with pytest.raises(DataError, match=r"KD710.*cannot be read"):
        splits.val.rows([1])
    (chapter / "19-198-0001.wav").unlink()
    with pytest.raises(DataError, match=r"KD719.*19-198-0001"):
        SpeechFolder(path=".").load(corpus)
    (chapter / "19-198.trans.txt").write_text("19-198-0000 ROUTE 7\n")
    with pytest.raises(DataError, match=r"KD719.*'7'"):
        SpeechFolder(path=".").load(corpus)
