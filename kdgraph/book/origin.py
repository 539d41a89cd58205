"""What values of the teachers' side are made of, as texts that can be compared: their origin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdgraph.book.header import NONE
from kdgraph.spec.booked import teachers_side
from kdgraph.spec.frontier import stored
from kdgraph.spec.language import Spec

# of a model: told by themselves, of no effect, or never of a frozen one
_LEFT_OUT = {"weights", "trainable", "taps", "start_from", "lora"}


def described(spec: Spec, references: Collection[str]) -> dict[str, str]:
    """All that a spec says of how some values come about and are kept, but for weights.

    Keys are ``subgraph.models.teacher.args``, ``spec.signals.target.tau``,
    ``spec.store.target.dtype`` and so on; a value that the spec leaves out is its default.
    """
    side, kept = teachers_side(spec, references), stored(spec)
    read = {ref for s in side.signals.values() for _, ref in s.references()} | set(references)
    found: dict[str, Any] = {}
    for name, model in side.models.items():
        said = model.model_dump(mode="json", exclude=_LEFT_OUT)
        said["input"] = side.inputs(name)
        found |= {f"subgraph.models.{name}.{key}": value for key, value in said.items()}
        taps = {t: path for t, path in model.taps.items() if f"{name}.{t}" in read}
        found |= {f"subgraph.models.{name}.taps.{tap}": path for tap, path in taps.items()}
    for name, signal in side.signals.items():
        said = signal.model_dump(mode="json", serialize_as_any=True)
        found |= {f"spec.signals.{name}.{key}": value for key, value in said.items()}
    for name, entry in side.batch.items():
        found |= {f"spec.batch.{name}.{k}": v for k, v in entry.model_dump(mode="json").items()}
    for ref in references:
        found |= {f"spec.store.{ref}.{k}": v for k, v in kept[ref].model_dump(mode="json").items()}
    return {key: text(value) for key, value in found.items()}


def weights(spec: Spec, networks: Mapping[str, nn.Module]) -> dict[str, str]:
    """Digests of networks, and of the files that the spec names for their weights.

    A file tells without a network; where there is none at its place, it is left out. Of a network
    that is not at hand, and for which the spec names no file, there is to be ``NONE``.
    """
    found = {f"weights.{name}": digest(tensors_of(net)) for name, net in networks.items()}
    for name, model in spec.models.items():
        path = spec.folder / model.weights if model.weights else None
        if path is not None and path.is_file():
            found[f"weights.{name}.file"] = file_digest(path)
        elif path is None and spec.network(name) == name and name not in networks:
            found[f"weights.{name}.file"] = NONE
    return found


def digest(tensors: Mapping[str, Tensor]) -> str:
    """32 letters that tell named tensors apart by names, types, shapes and every bit."""
    found = hashlib.blake2b(digest_size=16)
    for name, value in sorted(tensors.items()):
        plain = value.detach().cpu().contiguous()
        found.update(f"{name} {plain.dtype} {list(plain.shape)}\n".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network that have a name in its state dict."""
    return {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}


def file_digest(path: Path) -> str:
    """32 letters that tell files apart."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def text(value: Any) -> str:
    """A value of a spec in a form that is the same whenever it is the same."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
