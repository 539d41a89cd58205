"""Tensors on disk that several processes have written, each a part; any number of them reads.

They lie as ``torch.distributed.checkpoint`` (DCP) writes them in safetensors, which hold no code.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

PROGRESS = "progress.pt"  # beside the tensors of a training: all that is no tensor of a module
MODULE = "distill/"  # what the names of the module's tensors begin with


def has_parts(path: Path) -> bool:
    """Whether a path is a checkpoint of several processes."""
    return (path / PROGRESS).is_file()


def write_part(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Writes what this process has of some tensors; all processes call it."""
    save(
        tensors,
        storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
    )


def forms(folder: Path, prefix: str) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Size and type of the whole tensors whose names begin so.

    Raises:
        ValueError: where some process's part of one is missing, which the reader would not notice.
    """
    said = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    found = {}
    for name, form in said.items():
        if name.startswith(prefix) and isinstance(form, TensorStorageMetadata):
            if sum(chunk.sizes.numel() for chunk in form.chunks) != form.size.numel():
                raise ValueError(f"a part of {name!r} is missing")
            found[name] = (form.size, form.properties.dtype)
    return found


def fill(tensors: dict[str, Tensor], folder: Path, *, alone: bool) -> None:
    """Fills tensors, whole or sharded, with what a folder has of them.

    Args:
        tensors: by their names in the folder.
        folder: where they are.
        alone: this process reads by itself; else all call this together.
    """
    if tensors:
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=alone)


def module_state(folder: Path) -> dict[str, Tensor]:
    """The whole state of the module that was trained, on the CPU."""
    found = {
        name: torch.empty(size, dtype=dtype)
        for name, (size, dtype) in forms(folder, MODULE).items()
    }
    fill(found, folder, alone=True)
    return {name.removeprefix(MODULE): value for name, value in found.items()}
