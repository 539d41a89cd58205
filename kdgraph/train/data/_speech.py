"""From recordings and their words to log-mel frames and class numbers."""

from __future__ import annotations

import math
import wave
from collections.abc import Sequence
from functools import cache
from typing import IO, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"  # class 0 is the blank, 1 the space, ...

_WINDOW, _HOP = 0.025, 0.010  # seconds
_LOWEST, _HIGHEST = 20.0, 7600.0  # Hz; what a recording of 16 kHz holds
_RANGE = 8 * math.log(10)  # 80 dB below the loudest value of an utterance counts as silence
_SMALL = 1e-10


def numbers(words: str) -> Tensor:
    """The classes [S] of letters, space and apostrophe; case is dropped.

    Raises:
        ValueError: for any other character.
    """
    text = words.lower()
    if odd := sorted(set(text) - set(ALPHABET)):
        raise ValueError(f"{words!r} holds {odd[0]!r}, which is no letter, space or apostrophe")
    return torch.tensor([ALPHABET.index(c) + 1 for c in text], dtype=torch.int64)


def read_wave(source: IO[bytes] | str) -> tuple[Tensor, int]:
    """Samples [N], -1 to 1, and their number per second; channels are averaged.

    Raises:
        ValueError: for samples of more than 4 bytes; wave.Error and EOFError for no wave file.
    """
    with wave.open(source, "rb") as file:
        width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
        data = file.readframes(file.getnframes())
    return pcm(data, width).reshape(-1, channels).mean(1), rate


def pcm(data: bytes, width: int) -> Tensor:
    """Little-endian samples of ``width`` bytes as numbers from -1 to 1."""
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if width == 1:  # the only width that is unsigned
        return raw.float().sub_(128).div_(128)
    if width == 2:
        return raw.view(torch.int16).float().div_(2**15)
    if width == 3:  # a lowest byte of 0 makes 4 of it
        raw = pad(raw.view(-1, 3), (1, 0)).flatten()
    elif width != 4:
        raise ValueError(f"samples of {width} bytes")
    return raw.view(torch.int32).double().div_(2**31).float()


def log_mel(samples: Tensor, rate: int, mels: int) -> Tensor:
    """Log-mel frames [T, M] of samples [N]: 25 ms each, one every 10 ms, at any sampling rate.

    A Hann window, the power spectrum, ``mels`` triangular filters evenly spaced in mel between
    20 Hz and 7.6 kHz (O'Shaughnessy 1987: ``2595 log10(1 + f / 700)``), the logarithm, cut at
    80 dB below the loudest value. Each mel band then has mean 0 and deviation 1 over the
    utterance, so that loudness and the recording's colour drop out.
    """
    window, hop = round(_WINDOW * rate), round(_HOP * rate)
    samples = pad(samples, (0, max(0, window - len(samples))))
    frames = samples.unfold(0, window, hop) * torch.hann_window(window)
    size = 1 << (window - 1).bit_length()
    power = torch.fft.rfft(frames, size).abs().square()  # [T, size / 2 + 1]
    log = (power @ filters(rate, size, mels)).clamp_min(_SMALL).log()
    log = log.maximum(log.max() - _RANGE)
    mean, deviation = log.mean(0), log.std(0, correction=0)
    normal: Tensor = (log - mean) / deviation.clamp_min(1e-2)
    return normal


@cache
def filters(rate: int, size: int, mels: int) -> Tensor:
    """Triangles [size / 2 + 1, M] of height 1, each from its neighbour's peak to the other's."""

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    low, high = mel(_LOWEST), mel(_HIGHEST)
    peaks = 700 * (10 ** (torch.linspace(low, high, mels + 2, dtype=torch.float64) / 2595) - 1)
    at = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64).unsqueeze(1)
    rise = (at - peaks[:-2]) / (peaks[1:-1] - peaks[:-2])
    fall = (peaks[2:] - at) / (peaks[2:] - peaks[1:-1])
    return rise.minimum(fall).clamp_min(0).float()


def padded(features: Sequence[Tensor], labels: Sequence[Tensor]) -> dict[str, Tensor]:
    """The columns of utterances, as long as the longest of them: 0 behind frames and labels."""
    sequence: Any = torch.nn.utils.rnn.pad_sequence
    return {
        "features": sequence(list(features), batch_first=True),
        "frames": torch.tensor([len(f) for f in features]),
        "label": sequence(list(labels), batch_first=True),
        "label_length": torch.tensor([len(x) for x in labels]),
    }
