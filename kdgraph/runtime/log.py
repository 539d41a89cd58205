"""The log of actions, and the bytes in which a checkpoint holds it."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Done(NamedTuple):
    """An action that was done: where it is written, what it decided, what it said.

    Attributes:
        epoch: of the stage, after which it was done; 0 for one at its edges.
    """

    stage: str
    place: str
    at: int
    epoch: int
    decided: dict[str, Any]
    lines: list[str]


class Course(NamedTuple):
    """The present leg, what was done, and the stages entered with the length of the log by then."""

    leg: str
    log: list[Done]
    visited: list[tuple[str, int]]

    def pack(self) -> Tensor:
        """As bytes, uint8 [N], so that any checkpoint can hold it."""
        file = io.BytesIO()
        log = [list(done) for done in self.log]
        torch.save({"leg": self.leg, "log": log, "visited": self.visited}, file)
        return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)

    @classmethod
    def unpack(cls, packed: Tensor) -> Course:
        """The other way round; runs no code that the bytes may hold."""
        found = torch.load(io.BytesIO(bytes(packed.tolist())), weights_only=True)
        return cls(found["leg"], [Done(*done) for done in found["log"]], found["visited"])
