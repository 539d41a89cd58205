"""Files of weights made to hurt, through ``kdgraph compile``: one clear error each, and no harm."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from kdgraph.errors import ModelError
from kdgraph.models.load import build_model
from kdgraph.models.weights import load_weights
from tests.hostile.press import FINE, Outcome, press

ARGS = {"in_channels": 1, "width": 0.25}


def state() -> dict[str, Tensor]:
    """Weights that fit."""
    return {n: t.clone() for n, t in build_model("cifar/resnet8", ARGS).state_dict().items()}


class Touch:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("pwned",))


def raw(header: bytes, data: bytes = b"", claimed: int | None = None) -> bytes:
    """A safetensors file of any header."""
    size = len(header) if claimed is None else claimed
    return size.to_bytes(8, "little") + header + data


def told(**tensors: tuple[str, list[int], list[int]]) -> bytes:
    """A header of tensors: type, shape and offsets of each."""
    keys = ("dtype", "shape", "data_offsets")
    return json.dumps({n: dict(zip(keys, t, strict=True)) for n, t in tensors.items()}).encode()


def deflated(path: Path) -> None:
    """A file of ``torch.save``, one of its tensors 4 GB of zeros in 4 MB."""
    plain = io.BytesIO()
    torch.save({"w": torch.zeros(1 << 10)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            with new.open(part.filename, "w", force_zip64=True) as file:
                if not part.filename.endswith("/data/0"):
                    file.write(old.read(part))
                    continue
                for _ in range(256):
                    file.write(bytes(1 << 20))


def legacy(numbers: int) -> bytes:
    """The format before zip files, of one storage that claims to be large."""
    file = io.BytesIO()
    torch.save({"w": torch.zeros(1)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue().replace(b"K\x01", b"\x8a\x08" + numbers.to_bytes(8, "little"))


def saved(change: Callable[[dict[str, Tensor]], Mapping[str, Any]]) -> bytes:
    return save(dict(change(state())))


def poisoned(value: float) -> bytes:
    weights = state()
    weights["layer1.0.conv1.weight"].view(-1)[3] = value
    return save(weights)


def to(data: Callable[[], bytes]) -> Callable[[Path], int]:
    """What writes a file of these bytes."""
    return lambda path: path.write_bytes(data())


CASES: dict[str, tuple[str, Callable[[Path], Any], str, str]] = {
    "code in .pt": ("w.pt", lambda p: torch.save({"w": Touch()}, p), "KD415", "run code"),
    "code in .pth": ("w.pth", lambda p: p.write_bytes(pickle.dumps(Touch())), "KD415", "run code"),
    "code in an old .pt": (
        "w.pt",
        lambda p: torch.save({"w": Touch()}, p, _use_new_zipfile_serialization=False),
        "KD415",
        "run code",
    ),
    "code in .ckpt": ("w.ckpt", lambda p: torch.save(Touch(), p), "KD415", "must end in"),
    "code named .safetensors": ("w.safetensors", lambda p: torch.save(Touch(), p), "KD415", ""),
    "a header of 2**63 bytes": (
        "w.safetensors",
        to(lambda: raw(b"{}", claimed=2**63)),
        "KD415",
        "9,223,372,036,854,775,808",
    ),
    "a header that is longer than the file": (
        "w.safetensors",
        to(lambda: raw(b"{}", claimed=1000)),
        "KD415",
        "1,000 bytes",
    ),
    "a header of 100 MB": (
        "w.safetensors",
        to(lambda: raw(b"{" + b" " * 10**8 + b"}")),
        "KD415",
        "header claims",
    ),
    "a header of 10,000 brackets": (
        "w.safetensors",
        to(lambda: raw(b'{"a":' + b"[" * 10_000)),
        "KD415",
        "",
    ),
    "a header of a million brackets": (
        "w.safetensors",
        to(lambda: raw(b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}")),
        "KD415",
        "",
    ),
    "a header that is no text": ("w.safetensors", to(lambda: raw(b"\xff" * 64)), "KD415", ""),
    "a header that is a list": ("w.safetensors", to(lambda: raw(b"[]")), "KD415", ""),
    "offsets that overlap": (
        "w.safetensors",
        to(lambda: raw(told(a=("F32", [2], [0, 8]), b=("F32", [2], [4, 12])), bytes(12))),
        "KD415",
        "",
    ),
    "offsets beyond the end": (
        "w.safetensors",
        to(lambda: raw(told(a=("F32", [2**40], [0, 2**42])))),
        "KD415",
        "",
    ),
    "offsets backwards": (
        "w.safetensors",
        to(lambda: raw(told(a=("F32", [2], [8, 0])), bytes(8))),
        "KD415",
        "",
    ),
    "a shape that overflows": (
        "w.safetensors",
        to(lambda: raw(told(a=("F32", [2**62, 2**62, 2**62], [0, 8])), bytes(8))),
        "KD415",
        "",
    ),
    "names that steer the terminal": (
        "w.safetensors",
        to(lambda: save({"\x1b]0;owned\x07\u202e": torch.zeros(1)})),
        "KD416",
        r"\\x1b\]0;owned\\x07\\u202e",
    ),
    "20,000 tensors": (
        "w.safetensors",
        to(lambda: raw(told(**{f"t{i}": ("F32", [0], [0, 0]) for i in range(20_000)}))),
        "KD416",
        "and 19992 more",
    ),
    "a truncated file": ("w.safetensors", to(lambda: save(state())[:-100]), "KD415", ""),
    "a truncated .pt": (
        "w.pt",
        lambda p: (torch.save(state(), p), p.write_bytes(p.read_bytes()[:-100])),
        "KD415",
        "",
    ),
    "a bomb of zeros": ("w.pt", deflated, "KD415", "compressed"),
    "an old .pt that claims terabytes": (
        "w.pt",
        to(lambda: legacy(2**40)),
        "KD415",
        "",
    ),
    "other shapes": (
        "w.safetensors",
        to(lambda: saved(lambda s: {n: t[:1] if t.dim() else t for n, t in s.items()})),
        "KD416",
        "file .*, model",
    ),
    "integers for floats": (
        "w.safetensors",
        to(lambda: saved(lambda s: {n: t.to(torch.int8) for n, t in s.items()})),
        "KD416",
        "file int8, model float32",
    ),
    "a weight of nan": (
        "w.safetensors",
        to(lambda: poisoned(float("nan"))),
        "KD417",
        r"w.safetensors: 'layer1.0.conv1.weight' holds nan",
    ),
    "a weight of inf": (
        "w.safetensors",
        to(lambda: poisoned(float("-inf"))),
        "KD417",
        "'layer1.0.conv1.weight' holds inf",
    ),
    "a statistic of nan": (
        "w.safetensors",
        to(
            lambda: saved(
                lambda s: {n: t * float("nan") if "running" in n else t for n, t in s.items()}
            )
        ),
        "KD417",
        "running_mean' holds nan, as .* more tensors do",
    ),
    "a folder": ("w.safetensors", Path.mkdir, "KD415", "is a folder"),
    "a pipe": ("w.pt", os.mkfifo, "KD415", ""),
    "a link to nothing": ("w.pt", lambda p: p.symlink_to("gone"), "KD415", "no weights file"),
    "a link to itself": ("w.pt", lambda p: p.symlink_to("w.pt"), "KD415", ""),
    "a link to a device": ("w.pt", lambda p: p.symlink_to("/dev/zero"), "KD415", ""),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What ``kdgraph compile`` makes of each as the weights of a teacher."""
    scratch = tmp_path_factory.mktemp("weights")
    runs = []
    for number, (name, make, _, _) in enumerate(CASES.values()):
        folder = scratch / str(number)
        folder.mkdir()
        make(folder / name)
        text = FINE.replace("    args: {in", f"    weights: {name}\n    args: {{in", 1)
        (folder / "spec.yaml").write_text(text)
        runs.append((folder, ["compile", "spec.yaml", "-o", "out"]))
    save_file(state(), scratch / "w.safetensors")
    torch.save(state(), scratch / "w.pt")
    return dict(
        zip(CASES, press(scratch, runs, ["compile", "fine.yaml", "-o", "out"]), strict=True)
    )


@pytest.mark.parametrize("name", CASES)
def test_one_clear_error(name: str, outcomes: dict[str, Outcome]) -> None:
    _, _, code, said = CASES[name]
    outcomes[name].assert_refused(code, said)
    assert (outcomes[name].out + outcomes[name].err).replace("\n", "").isprintable()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_what_fits_is_taken(name: str, tmp_path: Path) -> None:
    """Half precision too, and infinite buffers: the guards stand in nobody's way."""
    weights = {n: t.half() if t.is_floating_point() else t for n, t in state().items()}
    if name.endswith("pt"):
        torch.save(weights, tmp_path / name)
    else:
        save_file(weights, tmp_path / name)
    build_model("cifar/resnet8", ARGS, weights=tmp_path / name)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"KD415.*no regular file"):
        load_weights(build_model("cifar/resnet8", ARGS), tmp_path / "w.pt")
