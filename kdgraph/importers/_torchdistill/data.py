"""``datasets``: where rows come from and what is done to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kdgraph.importers._draft import Draft, Line
from kdgraph.importers._tagged import At


@dataclass
class Part:
    """One part of a data set, as training or validation reads it."""

    at: At
    kind: str = ""
    root: str | None = None
    transforms: list[At] = field(default_factory=list)


@dataclass
class Rows:
    """What the training part says: the size of images, and keys of a ``data`` block."""

    size: int | None = None
    channels: int = 3
    keys: dict[str, Any] = field(default_factory=dict)


def read_data(datasets: At | None, train: str | None, val: str | None, draft: Draft) -> Rows:
    """Fills ``data`` of the draft where kdgraph has the same data set; what is known of images.

    Args:
        datasets: the section of the file.
        train: the name by which the training loader picks a part of it.
        val: the same of validation.
        draft: what the block goes into.
    """
    rows = Rows()
    if datasets is None:
        return rows
    parts = _parts(datasets)
    part = parts.get(train or "")
    if part is None:
        why = "no data set of kdgraph is like it; write a `data` block by hand"
        draft.leave(datasets, "the section datasets", why, "data")
        return rows
    mark = len(draft.left), len(draft.carried)
    for transform in part.transforms:
        _transform(transform, rows, draft)
    root = _folder(part, parts.get(val or ""))
    if part.kind == "ImageFolder" and root is not None:
        value: dict[str, Any] = {"use": "imagefolder", "path": root}
        if rows.size is not None:
            value["size"] = rows.size
        remarks = []
        if root.startswith("~"):
            why = "write the folder's whole path: ~ is not looked up"
            remarks.append(draft.differs(part.at, "the folder", why))
        draft.data = Line(value | rows.keys, remarks)
        draft.carry(datasets, "data: imagefolder")
        for missed in datasets.ledger.missed(datasets):
            _rest(missed, draft)
    elif part.kind == "FashionMNIST":
        draft.data = Line({"use": "fashion_mnist", **rows.keys})
        rows.size, rows.channels = 28, 1
        why = "5,000 of its training rows are for validation here"
        draft.data.remarks.append(draft.differs(part.at, "the data set", why))
        draft.carry(datasets, "data: fashion_mnist")
        for missed in datasets.ledger.missed(datasets):
            _rest(missed, draft)
    else:
        del draft.left[mark[0] :], draft.carried[mark[1] :]
        kind = part.kind or "this one"
        why = f"kdgraph has no data set {kind}; `use: hf` or a folder of images may bring it"
        if part.kind == "ImageFolder":
            why = "its folders are not `train` and `val` side by side, as `imagefolder` has them"
        draft.leave(datasets, "the section datasets", why, "data")
    return rows


def _parts(datasets: At) -> dict[str, Part]:
    """Parts by the names that loaders pick them by."""
    found: dict[str, Part] = {}
    for name, at in datasets.items():
        if not isinstance(at.node.value, dict):
            continue
        splits = at.get("splits")
        if splits is None:
            init = at.get("init")
            kwargs = init.get("kwargs") if init is not None and _is_mapping(init) else None
            found[name] = _part(at, at.get("key"), kwargs)
            continue
        for split in splits.inner():
            chosen = split.get("dataset_id")
            if chosen is not None:
                kwargs = split.get("kwargs", "params")
                found[str(chosen.read())] = _part(split, at.get("key", "type"), kwargs)
    return found


def _part(at: At, key: At | None, kwargs: At | None) -> Part:
    part = Part(at)
    if key is not None:
        part.kind = str(key.read()).rpartition(".")[2]
    if kwargs is None or not _is_mapping(kwargs):
        return part
    if (root := kwargs.get("root")) is not None and isinstance(text := root.read(), str):
        part.root = text
    listed = kwargs.get("transform_configs", "transform_params", "transform")
    while listed is not None and _is_mapping(listed):  # a Compose around the list
        init = listed.get("init")
        inner = init.get("kwargs") if init is not None and _is_mapping(init) else None
        listed.ledger.take(listed.path)
        if (name := listed.get("key")) is not None:
            name.read()
        listed = inner.get("transforms") if inner is not None and _is_mapping(inner) else None
    part.transforms = [t for t in listed.children() if _is_mapping(t)] if listed else []
    return part


def _is_mapping(at: At) -> bool:
    return isinstance(at.node.value, dict)


def _folder(train: Part, val: Part | None) -> str | None:
    """The folder that holds ``train`` and ``val``, where the two parts' folders are those."""
    if train.root is None or val is None or val.root is None:
        return None
    places = [root.rstrip("/").rpartition("/") for root in (train.root, val.root)]
    fits = [name for _, _, name in places] == ["train", "val"] and places[0][0] == places[1][0]
    return places[0][0] or "." if fits else None


def _transform(at: At, rows: Rows, draft: Draft) -> None:
    """One transform of training images."""
    key = at.get("key", "type")
    name = str(key.read()).rpartition(".")[2] if key is not None else "?"
    init = at.get("init")
    kwargs_at = init.get("kwargs") if init is not None and _is_mapping(init) else None
    kwargs_at = kwargs_at or at.get("kwargs", "params")
    kwargs = kwargs_at.read() if kwargs_at is not None else {}
    kwargs = kwargs if isinstance(kwargs, dict) else {}  # what only a call would tell
    at.ledger.take(at.path, whole=True)
    size = _size(kwargs.get("size"))
    if size is not None:
        rows.size = size
    if name == "ToTensor" or (name in ("Resize", "CenterCrop") and size is not None):
        draft.carry(at, "data: images are resized, cropped in the centre and scaled to 0 .. 1")
    elif name == "RandomCrop" and isinstance(kwargs.get("padding"), int):
        rows.keys.setdefault("augment", {})["shift"] = kwargs["padding"]
        draft.carry(at, "data.augment.shift, of images that have this size")
    elif name == "RandomHorizontalFlip" and kwargs.get("p", 0.5) == 0.5:
        rows.keys.setdefault("augment", {})["flip"] = True
        draft.carry(at, "data.augment.flip")
    elif name == "Normalize" and _numbers(kwargs.get("mean")) and _numbers(kwargs.get("std")):
        rows.keys["normalise"] = {"mean": kwargs["mean"], "std": kwargs["std"]}
        draft.carry(at, "data.normalise")
    elif name == "RandomResizedCrop":
        draft.leave(at, "RandomResizedCrop", "images are cropped in the centre here", "data")
    else:
        draft.leave(at, f"the transform {name}", "`kdgraph list transforms` has others", "data")


def _size(value: Any) -> int | None:
    if isinstance(value, list) and value and all(v == value[0] for v in value):
        value = value[0]
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _numbers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    )


def _rest(at: At, draft: Draft) -> None:
    """What the ``data`` block has no key for."""
    if str(at.path[-1]).startswith("_") or at.path[-1] in ("name", "download", "train", "root"):
        draft.carry(at, "nothing: a name that other lines refer to, or where files lie", whole=True)
    else:
        why = "validation and test images are resized and cropped in the centre"
        draft.leave(at, "how other parts are read", why)
