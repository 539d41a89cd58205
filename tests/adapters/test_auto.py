from __future__ import annotations

import pytest

from kdgraph.adapters.auto import Auto
from kdgraph.spec.shapes import Shape, ShapeMismatch

B = 2


@pytest.mark.parametrize(
    ("student", "teacher", "picked"),
    [
        ((B, 64, 8, 8), (B, 64, 8, 8), "identity"),
        ((B, 64, 8, 8), (B, 128, 8, 8), "conv1x1"),
        ((B, 64, 4, 4), (B, 64, 8, 8), "resize"),
        ((B, 64, 16, 16), (B, 64, 8, 8), "resize(mode=area)"),
        ((B, 64, 16, 4), (B, 64, 8, 8), "resize"),
        ((B, 64, 16, 16), (B, 128, 8, 8), "resize(mode=area), then conv1x1"),
        ((B, 10), (B, 20), "linear"),
        ((B, 197, 192), (B, 197, 768), "linear"),
        ((B, 64, 14, 14), (B, 768), "pool, then linear"),
        ((B, 768, 14, 14), (B, 768), "pool"),
        ((B, 50, 64), (B, 768), "pool, then linear"),
        ((B, 49, 64), (B, 64, 7, 7), "tokens_to_map"),
        # the class token, and five prefix tokens
        ((B, 50, 64), (B, 64, 7, 7), "tokens_to_map(skip=1)"),
        ((B, 54, 64), (B, 64, 7, 7), "tokens_to_map(skip=5)"),
        (
            (B, 197, 192),
            (B, 512, 7, 7),
            "tokens_to_map(skip=1), then resize(mode=area), then conv1x1",
        ),
        ((B, 52, 8), (B, 8, 5, 10), "tokens_to_map(skip=2, size=(5, 10))"),
        ((B, 64, 14, 14), (B, 196, 768), "map_to_tokens, then linear"),
        # Swin
        ((B, 7, 7, 384), (B, 7, 7, 768), "linear"),
        ((B, 56, 56, 96), (B, 56, 56, 128), "linear"),
        ((B, 7, 7, 384), (B, 512, 7, 7), "tokens_to_map, then conv1x1"),
        ((B, 512, 7, 7), (B, 7, 7, 384), "map_to_tokens, then linear"),
        ((B, 7, 7, 768), (B, 100), "tokens_to_map, then pool, then linear"),
        # as many channels as rows: still a map
        ((B, 64, 64, 128), (B, 256, 64, 128), "conv1x1"),
    ],
)
def test_picks_by_shape(student: Shape, teacher: Shape, picked: str) -> None:
    assert Auto().resolve(student, teacher).describe() == picked
    assert Auto().shape(student, teacher) == teacher


@pytest.mark.parametrize(
    ("student", "teacher", "why"),
    [
        ((B, 5), (B, 5, 3, 3), "a vector has no positions"),
        ((B, 9, 4), (B, 8, 4), "as many"),
        ((B, 64, 14, 14), (B, 197, 768), "197 tokens; read the teacher through the signal"),
        ((B, 512, 14, 14), (B, 7, 7, 384), "7 x 7 tokens; read the teacher through the signal"),
        ((B, 90, 4), (B, 4, 5, 5), "90 tokens are not a square map"),
        ((B, 3, 3, 3, 3), (B, 3, 3, 3, 4), "neither a vector, nor tokens, nor a map"),
        ((B, 4), (B + 1, 5), "batch size"),
    ],
)
def test_says_why_nothing_fits(student: Shape, teacher: Shape, why: str) -> None:
    with pytest.raises(ShapeMismatch, match=why) as caught:
        Auto().resolve(student, teacher)
    assert str(list(student)) in str(caught.value)
    assert str(list(teacher)) in str(caught.value)
