"""Checkpoints on disk: one file, or a folder that several processes write and any number reads.

In a folder tensors lie as ``torch.distributed.checkpoint`` (DCP) writes them, in safetensors, of
which each process writes a part; all else is in ``progress.pt``. Nothing that is read can run
code: safetensors hold none, and the rest is read with ``weights_only``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, distribute_tensor

from kdgraph.models.bounded import bounded
from kdgraph.runtime.parts import MODULE, PROGRESS, fill, forms, has_parts, module_state, write_part
from kdgraph.train.ranks import meet, world, writes

_MOMENTS = "optimizer/"


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a checkpoint whole or not at all; until then that of before stays.

    Args:
        path: a file of a single process, a folder of several, which all call this.
        state: as ``Learner.state`` has it, and more.

    Raises:
        OSError: when it cannot be written, on every process.
    """
    part = path.with_name(f".{path.name}.{'part' if world() > 1 else os.getpid()}")
    try:
        if world() > 1:
            _write_folder(part, state)
        else:
            torch.save(dict(state), part)
        if writes():
            _put(part, path)
    finally:
        if writes():
            _remove(part)
    meet()


def _write_folder(folder: Path, state: Mapping[str, Any]) -> None:
    if writes():
        _remove(folder)
        folder.mkdir()
    meet()
    tensors, rest = _parted(state)
    try:
        write_part(folder, tensors)
    except CheckpointException as error:
        failed = next(iter(error.failures.values()))[0]
        raise (failed if isinstance(failed, OSError) else error) from None
    if writes():
        torch.save(rest, folder / PROGRESS)


def _parted(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of the module and the optimiser by name, and everything else."""
    tensors = {f"{MODULE}{name}": value for name, value in state["distill"].items()}
    optimizer, left = state["optimizer"], {}
    for name, at in _indices(optimizer):
        values = optimizer["state"].get(at, {})
        mine = {key: value for key, value in values.items() if isinstance(value, Tensor)}
        tensors |= {f"{_MOMENTS}{name}/{key}": value for key, value in mine.items()}
        left[at] = {key: value for key, value in values.items() if key not in mine}
    seen: set[int] = set()
    for name, value in tensors.items():
        local = value.to_local() if isinstance(value, DTensor) else value
        address = local.untyped_storage().data_ptr()
        if address in seen:  # a tied weight; the format has no two names for one memory
            tensors[name] = value.clone()
        seen.add(address)
    rest = {key: value for key, value in state.items() if key != "distill"}
    shapes = {name: list(value.shape) for name, value in tensors.items()}
    return tensors, {**rest, "optimizer": {**optimizer, "state": left}, "tensors": shapes}


def _indices(optimizer: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The names of parameters, each with its number in the state of an optimiser."""
    for group, names in zip(optimizer["param_groups"], optimizer["names"], strict=True):
        yield from zip(names, group["params"], strict=True)


def _put(part: Path, path: Path) -> None:
    """Puts a file or folder in the place of another; a kill in between leaves one of them."""
    if not path.is_dir() and not part.is_dir():
        part.replace(path)
        return
    old = _old(path)
    if path.exists():
        _remove(old)
        path.rename(old)
    part.rename(path)
    _remove(old)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def place(path: Path) -> Path | None:
    """Where a checkpoint is, if there is one: the one before it where a kill left that alone."""
    return next((p for p in (path, _old(path)) if p.exists()), None)


def remove(path: Path) -> None:
    """Removes a checkpoint, and what kills have left of others."""
    for one in (path, _old(path), *path.parent.glob(f".{path.name}.*")):
        _remove(one)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def progress(path: Path) -> dict[str, Any]:
    """What a checkpoint holds; of a folder all but the tensors of module and optimiser."""
    file = path / PROGRESS if path.is_dir() else path
    found: dict[str, Any] = torch.load(
        bounded(file), map_location="cpu", weights_only=True, mmap=True
    )
    return found


def read(path: Path) -> dict[str, Any]:
    """A checkpoint of any number of processes, on the CPU.

    A folder gives the optimiser without its tensors, which ``with_tensors`` adds.

    Raises:
        ValueError: where a process's part is missing from a folder; what a reader raises.
    """
    if not has_parts(path):
        found: dict[str, Any] = torch.load(bounded(path), map_location="cpu", weights_only=True)
        return found
    rest = progress(path)
    there = {name: list(size) for name, (size, _) in forms(path, "").items()}
    if there != rest.pop("tensors"):
        raise ValueError("the parts that are there are not all that were written")
    return {**rest, "distill": module_state(path), "folder": str(path)}


def as_sharded(optimizer: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """The state of an optimiser that is whole in every process, each tensor as its parameter is.

    Args:
        optimizer: as ``read`` gave it of a file.
        parameters: of the present module, by the names that the state has.
    """
    state = dict(optimizer["state"])
    for name, at in _indices(optimizer):
        owner = parameters[name]
        if isinstance(owner, DTensor):
            state[at] = {key: _like(value, owner) for key, value in state.get(at, {}).items()}
    return {**optimizer, "state": {at: values for at, values in state.items() if values}}


def _like(value: Any, owner: DTensor) -> Any:
    if not isinstance(value, Tensor) or value.shape != owner.shape:
        return value
    here = value.to(owner.device)
    return distribute_tensor(here, owner.device_mesh, owner.placements, src_data_rank=None)


def with_tensors(
    optimizer: Mapping[str, Any], folder: Path, parameters: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The state of an optimiser whose tensors are in a folder, each as its parameter is sharded.

    All processes call this.

    Args:
        optimizer: as ``read`` gave it.
        folder: where the tensors are.
        parameters: of the present module, by the names that the state has.
    """
    index = dict(_indices(optimizer))
    tensors: dict[str, Tensor] = {}
    for name, (size, dtype) in forms(folder, _MOMENTS).items():
        owner = parameters[name.split("/")[1]]
        if isinstance(owner, DTensor) and owner.shape == size:
            tensors[name] = torch.zeros_like(owner.detach(), dtype=dtype)
        else:
            tensors[name] = torch.empty(size, dtype=dtype)
    fill(tensors, folder, alone=world() == 1)
    state = {at: dict(values) for at, values in optimizer["state"].items()}
    for name, value in tensors.items():
        _, owner_name, key = name.split("/")
        state[index[owner_name]][key] = value
    return {**optimizer, "state": {at: values for at, values in state.items() if values}}
