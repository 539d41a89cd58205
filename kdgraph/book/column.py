"""Columns of a book: what is kept of one tensor for each sample, and how."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from kdgraph.errors import BookError

Kept = Literal["float32", "float16", "int8", "int64", "int32", "bool"]
_PIECE, _LARGE = 1 << 14, 1 << 20  # numbers; torch shares out what has more than 1 << 15
_MOST = 1 << 40  # numbers of one sample
_NAME = re.compile(r"\w+(\.\w+)?", re.ASCII)
_EXACT = ("int64", "int32", "bool")


@dataclass(frozen=True)
class Column:
    """One tensor of the teachers' side, for every sample of a data set.

    Attributes:
        name: the reference it stands for, as a spec writes it: ``teacher.logits`` or ``target``.
        shape: of one sample, without the batch: ``(K,)`` for logits, ``(C, H, W)`` for maps.
        dtype: what is kept. ``float32`` is exact; ``float16`` is half the size; ``int8`` keeps one
            float32 scale for each sample and, where a sample has more than one dimension, for
            each index of its first (channel, token, head). ``int64``, ``int32`` and ``bool`` are
            for tensors that are so, and exact.
        form: ``dense`` keeps every value. ``top_k`` takes the last dimension as logits and keeps
            the ``k`` largest log-probabilities at temperature 1, in falling order, which classes
            they are, and the mass of all others.
        k: classes that ``top_k`` keeps.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Kept = "float32"
    form: Literal["dense", "top_k"] = "dense"
    k: int | None = None

    @property
    def parts(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """The tensors on disk: name to shape of one sample and dtype."""
        if self.form == "top_k":
            assert self.k is not None
            kept = (*self.shape[:-1], self.k)
            ids = torch.int16 if self.shape[-1] <= 2**15 else torch.int32
            values = getattr(torch, self.dtype)
            tail = (self.shape[:-1], torch.float32)
            return {
                f"{self.name}.values": (kept, values),
                f"{self.name}.ids": (kept, ids),
                f"{self.name}.tail": tail,
            }
        found = {self.name: (self.shape, getattr(torch, self.dtype))}
        if self.dtype == "int8":
            found[f"{self.name}.scale"] = (self._rows, torch.float32)
        return found

    @property
    def gives(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """The tensors that reading gives: name to shape of one sample and dtype.

        Dense: one of the column's name, float32 unless it is exact. Top-k: ``NAME.values`` and
        ``NAME.tail`` (float32) and ``NAME.ids`` (int64).
        """
        if self.form == "top_k":
            wide = dict.fromkeys(self.parts, torch.float32) | {f"{self.name}.ids": torch.int64}
            return {name: (shape, wide[name]) for name, (shape, _) in self.parts.items()}
        exact = self.dtype in _EXACT
        return {self.name: (self.shape, getattr(torch, self.dtype) if exact else torch.float32)}

    @property
    def bytes(self) -> int:
        """Bytes on disk for each sample and view."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.parts.values())

    @property
    def _rows(self) -> tuple[int, ...]:
        """The shape of what has a scale of its own in one sample."""
        return self.shape[:1] if len(self.shape) > 1 else ()

    def as_dict(self) -> dict[str, Any]:
        """For the header of a book."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def of(cls, found: dict[str, Any]) -> Self:
        """From the header of a book, which may be anybody's.

        Raises:
            ValueError: it is no column that could have been written.
            KeyError, TypeError: likewise.
        """
        made = cls(**{**found, "shape": tuple(found["shape"])})
        if not _NAME.fullmatch(made.name) or made.form not in ("dense", "top_k"):
            raise ValueError("no name or form of a column")
        if made.dtype not in get_args(Kept) or not all(_whole(s, 0) for s in made.shape):
            raise ValueError("no type or shape of a column")
        if math.prod(max(s, 1) for s in made.shape) > _MOST:
            raise ValueError("a sample of too many numbers")
        if made.form == "dense" and made.k is None:
            return made
        kept = made.dtype in ("float32", "float16") and bool(made.shape)
        if made.form == "dense" or not kept or not _whole(made.k, 1, made.shape[-1]):
            raise ValueError("no number of classes")
        return made

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """What is kept of a batch.

        Args:
            values: [B, *shape] on any device.

        Raises:
            BookError: KD768 values that are not finite, or too large for what they are kept in.
        """
        values = values.detach().cpu()
        if values.shape[1:] != self.shape:
            message = f"{self.name!r} is {list(values.shape[1:])}, and {list(self.shape)} elsewhere"
            help = "a book keeps what has one size in every batch"
            raise BookError.of("KD768", message, help=help)
        if self.dtype in _EXACT:
            return {self.name: values.to(getattr(torch, self.dtype))}
        values = values.float()
        if not values.isfinite().all():
            raise BookError.of("KD768", f"{self.name!r} has values that are not finite")
        if self.form == "top_k":
            return self._top(values)
        if self.dtype == "int8":
            return self._scaled(values)
        return {self.name: self._narrow(values)}

    def decode(self, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of ``gives`` from those of ``parts``, each with its batch in front."""
        given = {name: widened(kept[name], dtype) for name, (_, dtype) in self.gives.items()}
        if self.form == "dense" and self.dtype == "int8":
            scale, wide = kept[f"{self.name}.scale"], given[self.name]
            for value, by in zip(torch.split(wide, 1), torch.split(scale, 1), strict=True):
                value.mul_(by.view(*by.shape, *[1] * (value.dim() - by.dim())))
        return given

    def _top(self, logits: Tensor) -> dict[str, Tensor]:
        assert self.k is not None
        logs = logits.double().log_softmax(-1)
        values, ids = logs.topk(self.k, -1)
        # summed, not taken from 1, which would leave nothing of a small tail
        tail = logs.exp().scatter(-1, ids, 0).sum(-1)
        parts = self.parts
        return {
            f"{self.name}.values": self._narrow(values.float()),
            f"{self.name}.ids": ids.to(parts[f"{self.name}.ids"][1]),
            f"{self.name}.tail": tail.float(),
        }

    def _scaled(self, values: Tensor) -> dict[str, Tensor]:
        rows = values.reshape(len(values), *self._rows, -1)
        scale = rows.abs().amax(-1) / 127
        by = scale.where(scale > 0, 1).unsqueeze(-1)
        quantised = (rows / by).round().clamp(-127, 127).to(torch.int8)
        return {self.name: quantised.view(values.shape), f"{self.name}.scale": scale}

    def _narrow(self, values: Tensor) -> Tensor:
        """As float32 or float16, which must hold them."""
        narrow: Tensor = values.to(getattr(torch, self.dtype))
        if not narrow.isfinite().all():
            message = f"{self.name!r} has values up to {values.abs().max():.3g}"
            raise BookError.of("KD768", f"{message}, more than {self.dtype} holds",
                               help="keep it as float32")  # fmt: skip
        return narrow


def _whole(value: object, least: int, most: int = _MOST) -> bool:
    return type(value) is int and least <= value <= most


def widened(kept: Tensor, dtype: torch.dtype) -> Tensor:
    """``kept.to(dtype)``, by this thread alone where it is about as large as a batch of logits.

    Threads take longer to wake than the work takes, much longer where cores are busy.
    """
    if kept.dtype == dtype or kept.numel() > _LARGE:
        return kept.to(dtype)
    found = torch.empty(kept.shape, dtype=dtype)
    flat = torch.split(found.view(-1), _PIECE), torch.split(kept.reshape(-1), _PIECE)
    for target, piece in zip(*flat, strict=True):
        target.copy_(piece)
    return found
