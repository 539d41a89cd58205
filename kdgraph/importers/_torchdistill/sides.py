"""One side of a stage: where its paths lead, through hooks, wrappers and added modules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from kdgraph.importers._draft import Draft, is_path
from kdgraph.importers._tagged import At
from kdgraph.importers._torchdistill.known import Network
from kdgraph.importers._values import Cannot

Io = Literal["input", "output"]


@dataclass(frozen=True)
class Added:
    """A module that torchdistill puts behind a place of the model, and trains with it.

    Attributes:
        name: what its file calls it.
        path: the module whose output (or input) it reads.
        io: which of the two.
        adapter: what it is here; a sentence where it is nothing here.
        channels: how many it gives, where that is written.
        remarks: what is not the same.
    """

    name: str
    path: str
    io: Io
    adapter: Any
    channels: int | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a tensor comes from: a reference, and the module that stands behind it, if any."""

    ref: str
    added: Added | None = None


@dataclass
class Side:
    """The teacher's or the student's part of a stage.

    Attributes:
        role: the model's name in the spec.
        network: what is known of the model.
        prefix: the name under which a wrapper holds the model; empty without one.
        sequential: the modules of a model that is cut to a row of them.
        added: modules that are put in, by their paths; a sentence where one is nothing here.
        trainable: whether anything of the model itself is trained.
        frozen: modules of it that are not.
    """

    role: str
    network: Network
    draft: Draft
    prefix: str = ""
    sequential: list[str] = field(default_factory=list)
    added: dict[str, Added | str] = field(default_factory=dict)
    trainable: bool = False
    frozen: list[str] = field(default_factory=list)

    def at(self, path: At, io: At | None, default: Io = "output") -> Place:
        """The place that a path of a loss and its ``io`` name.

        Raises:
            Cannot: there is no such place in a spec.
        """
        side = io.text() if io is not None else default
        if side not in ("input", "output"):
            assert io is not None
            raise io.wrong("'input' or 'output'", side)
        found = self.place(path.text(), "input" if side == "input" else "output")
        if side == "input" and path.text().endswith(".relu"):
            why = (
                "torchdistill's hook sees it as the ReLU has changed it in place; the tap does not"
            )
            self.draft.differs(path, "the input of a ReLU", why)
        return found

    def place(self, path: str, io: Io = "output") -> Place:
        """The place of a path, as ``.``, ``layer3``, ``+convreg`` or ``linear``."""
        if path == ".":
            return self._whole(io)
        path = path.lstrip(".")
        if path == "classifier" and io == "output" and self.network.kind == "text":
            return self._whole(io)  # its output is what the model gives
        found = self.added.get(path.lstrip("+"))
        if isinstance(found, str):
            raise Cannot(found)
        if found is not None:
            below = self._below(found)
            return below if io == "input" else Place(below.ref, found)
        return Place(self.tap(path, io))

    def _below(self, added: Added) -> Place:
        """What an added module reads."""
        if added.path == "." or added.path.lstrip("+.") in self.added:
            raise Cannot(f"{added.name} does not read a module of the network")
        return self.place(added.path, added.io)

    def _whole(self, io: Io) -> Place:
        if io == "input":
            raise Cannot("it reads what comes into the whole model")
        if self.sequential:  # then the model ends with the last of them
            if self.sequential[-1] == ".":
                raise Cannot("`sequential` names the whole model in itself")
            return self.place(self.sequential[-1])
        return Place(self.draft.tap(self.role, self.network.output))

    def tap(self, path: str, io: Io) -> str:
        """The reference to a submodule's output, or to its first argument."""
        if self.prefix and path.startswith(f"{self.prefix}."):
            path = path.removeprefix(f"{self.prefix}.")
        path = self._counted(path)
        if not is_path(path):
            raise Cannot(f"{path!r} is no path of a submodule")
        text = path if io == "output" else f"{path}:in"
        blocks = self.network.blocks
        parts = path.split(".")
        if blocks and len(parts) == 3 and parts[0].startswith("layer") and parts[2] == "relu":
            text = self._last_relu(path, io, blocks[1])
        return self.draft.tap(self.role, text)

    def _last_relu(self, path: str, io: Io, calls: int) -> str:
        """A hook keeps the last call of a block's ReLU."""
        if self.network.is_cifar:
            return f"{path}2" if io == "output" else f"{path}2:in"
        return f"{path}@{calls}" if io == "output" else f"{path}@{calls}:in"

    def _counted(self, path: str) -> str:
        """The path with places from the end, ``layer1.-1``, counted from the start."""
        parts = path.split(".")
        if not any(p.startswith("-") for p in parts):
            return path
        blocks = self.network.blocks
        stage = parts[0].removeprefix("layer")
        if (
            blocks is None
            or len(parts) < 2
            or not parts[1].startswith("-")
            or not stage.isdecimal()
        ):
            raise Cannot(f"{path!r} counts from the end, which takes the model itself")
        sizes = blocks[0]
        number = int(stage)
        if not 1 <= number <= len(sizes) or not parts[1][1:].isdecimal():
            raise Cannot(f"{self.network.name} has no {path!r}")
        index = sizes[number - 1] - int(parts[1][1:])
        if index < 0:
            raise Cannot(f"{self.network.name} has no {path!r}")
        rest = parts[2:]
        if any(p.startswith("-") for p in rest):
            raise Cannot(f"{path!r} counts from the end, which takes the model itself")
        return ".".join([parts[0], str(index), *rest])
