"""Small pictures laid on pieces of large ones, and a map of where they lie."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import grid_sample

from kdgraph.train.data._split import TensorSplit

SIZE, IGNORE = 64, 255
_SIDES = (36, 57)  # of a thing, in pixels; the last is left out
_CHUNK = 250  # pictures at a time


def pictures(things: Tensor, classes: Tensor, photos: Tensor, chance: Generator) -> TensorSplit:
    """One to ``M`` things on a piece of a photograph, for each of N pictures.

    Args:
        things: uint8 [N, M, h, w], grey on black; black is what is not there.
        classes: [N, M], from 0; in the label map they count from 1.
        photos: [P, 3, H, W], 0 to 255.
        chance: draws everything.

    Returns:
        Columns ``image``, uint8 [N, 3, SIZE, SIZE], and ``label``, int64 [N, SIZE, SIZE].
    """
    N, M = classes.shape
    count = torch.randint(1, M + 1, (N,), generator=chance)
    side = torch.randint(*_SIDES, (N, M), generator=chance)
    place = torch.rand(N, M, 2, generator=chance) * (SIZE - side).unsqueeze(2)
    tint = 0.35 + 0.65 * torch.rand(N, M, 3, generator=chance)
    image = _backgrounds(photos, N, chance)
    label = torch.zeros(N, SIZE, SIZE, dtype=torch.int64)
    for start in range(0, N, _CHUNK):
        part = slice(start, start + _CHUNK)
        for m in range(M):
            there = (m < count[part]).view(-1, 1, 1)
            grey, cover = _at(things[part, m], place[part, m], side[part, m])
            cover = cover * there
            colour = (grey * there).unsqueeze(1) * tint[part, m].view(-1, 3, 1, 1)
            image[part] = image[part] * (1 - cover.unsqueeze(1)) + colour
            label[part] = _marked(label[part], cover > 0.5, classes[part, m] + 1)
    return TensorSplit({"image": image.round_().clamp_(0, 255).byte(), "label": label})


def _backgrounds(photos: Tensor, count: int, chance: Generator) -> Tensor:
    """Square pieces of SIZE to twice SIZE pixels, shrunk to SIZE, some mirrored."""
    P, _, H, W = photos.shape
    which = torch.randint(P, (count,), generator=chance)
    side = torch.randint(SIZE, min(2 * SIZE, H, W) + 1, (count,), generator=chance).float()
    draw = torch.rand(3, count, generator=chance)
    steps = (torch.arange(SIZE) + 0.5) / SIZE
    rows = draw[0, :, None] * (H - side)[:, None] + side[:, None] * steps
    mirrored = torch.where(draw[2, :, None] < 0.5, steps, 1 - steps)
    columns = draw[1, :, None] * (W - side)[:, None] + side[:, None] * mirrored
    pieces = torch.empty(count, 3, SIZE, SIZE)
    for p in range(P):
        for here in torch.split((which == p).nonzero().squeeze(1), _CHUNK):
            grid = _grid(2 * columns[here] / W - 1, 2 * rows[here] / H - 1)
            whole = photos[p].expand(len(here), -1, -1, -1)
            pieces[here] = grid_sample(whole, grid, padding_mode="border", align_corners=False)
    return pieces


def _at(thing: Tensor, place: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """Grey values of things [n, h, w] enlarged to ``side`` at ``place``, and how they cover.

    Both are [n, SIZE, SIZE]; cover is 0 to 1, and the grey is already multiplied by it.
    """
    steps = torch.arange(SIZE) + 0.5
    rows, columns = (2 * (steps - place[:, i, None]) / side[:, None] - 1 for i in (0, 1))
    grey = thing.float()
    both = torch.stack([grey, (thing > 0).float()], 1)
    found = grid_sample(both, _grid(columns, rows), align_corners=False)
    return found[:, 0], found[:, 1]


def _grid(columns: Tensor, rows: Tensor) -> Tensor:
    """[n, SIZE, SIZE, 2] as ``grid_sample`` reads it, from [n, SIZE] each."""
    across = columns.unsqueeze(1).expand(-1, SIZE, -1)
    down = rows.unsqueeze(2).expand(-1, -1, SIZE)
    return torch.stack([across, down], 3)


def _marked(label: Tensor, covered: Tensor, classes: Tensor) -> Tensor:
    """The label maps with things on top, and a border of one pixel that is ignored."""
    wide = covered.clone()
    wide[:, :, 1:] |= covered[:, :, :-1]
    wide[:, :, :-1] |= covered[:, :, 1:]
    wider = wide.clone()
    wider[:, 1:] |= wide[:, :-1]
    wider[:, :-1] |= wide[:, 1:]
    label = label.where(~wider, IGNORE)
    return torch.where(covered, classes.view(-1, 1, 1), label)
