"""Modules that torchdistill adds to a model: those that are adapters here, and why others are not.

Torchdistill has them in two ways: an ``adaptations`` entry whose name stands with a ``+`` in
``sequential``, and an ``auxiliary_model_wrapper`` that runs them on what its hooks caught.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdgraph.errors import near
from kdgraph.importers._draft import Draft
from kdgraph.importers._tagged import At
from kdgraph.importers._torchdistill.sides import Added, Io, Side

_PREFIX = {  # of the wrapped model, where its paths have one
    "teacher": "teacher_model", "student": "student_model",
}  # fmt: skip
_BOTH_SIDES = {"Linear4CCKD", "Linear4CRD", "SSWrapper4SSKD", "SRDModelWrapper"}


def add_adaptations(at: At | None, side: Side, draft: Draft) -> None:
    """``adaptations``: modules of a ``sequential``; the last of it may be an adapter."""
    for name, config in at.items() if at is not None else []:
        key = config.need("key", "type").text()
        kwargs = config.get("kwargs", "params")
        path = f"+{name}"
        if path not in side.sequential:
            draft.leave(config, f"the module {name}", "`sequential` does not name it")
            continue
        index = side.sequential.index(path)
        if index == 0 or index < len(side.sequential) - 1:
            why = "it stands within the network; an adapter stands behind a tap"
            side.added[name] = why
            draft.leave(config, f"the module {name}", why, "links")
            continue
        before = side.sequential[index - 1]
        found, channels, remarks = _adapter(key, kwargs)
        if isinstance(found, str):
            side.added[name] = f"{key} {found}"
            draft.leave(config, f"the module {name}", f"{key} {found}", "links")
            continue
        side.added[name] = Added(name, before, "output", found, channels, tuple(remarks))
        told = [draft.differs(config, f"the module {name}", r) for r in remarks]
        draft.carry(config, "the adapter of a link", whole=not told)
        config.ledger.take(config.path, whole=True)


def _adapter(key: str, kwargs: At | None) -> tuple[Any, int | None, list[str]]:
    """The adapter for a module by its class, or why there is none; channels; what differs."""
    args = kwargs.table() if kwargs is not None else {}
    if key in ("ConvReg", "Conv2d"):
        inner = {"ConvReg": ("num_output_channels",), "Conv2d": ("out_channels",)}[key][0]
        norm = key == "ConvReg"
        relu = norm and args.get("uses_relu", True) is True
        return _conv(args, args.get(inner), norm=norm, relu=relu)
    if key == "Linear":
        bias = args.get("bias", True) is True
        value: Any = "linear" if bias else {"use": "linear", "bias": False}
        return value, _int(args.get("out_features")), []
    if key in ("Identity", "Flatten"):
        return "identity", None, []
    return "is no module that an adapter stands for", None, []


def _conv(
    args: dict[str, Any], channels: Any, *, norm: bool, relu: bool
) -> tuple[Any, int | None, list[str]]:
    """A convolution as ``conv1x1``, which it is where it looks at one pixel."""
    size, stride, padding = (
        _square(args.get(k, d)) for k, d in (("kernel_size", 1), ("stride", 1), ("padding", 0))
    )
    if stride != 1 or (args.get("groups", 1), args.get("dilation", 1)) != (1, 1):
        return "is a convolution with a stride, groups or dilation", None, []
    if size is None or padding is None or 2 * padding != size - 1:
        return "is a convolution that changes the size of the map", None, []
    value: dict[str, Any] = {"use": "conv1x1"}
    if args.get("bias", True) is False and not norm:
        value["bias"] = False
    if norm:
        value["norm"] = "batch"
    if relu:
        value["activation"] = "relu"
    told = [f"its convolution is {size} x {size}; conv1x1 is 1 x 1"] if size != 1 else []
    return ("conv1x1" if len(value) == 1 else value), _int(channels), told


def _square(value: Any) -> int | None:
    if isinstance(value, list) and value and all(v == value[0] for v in value):
        value = value[0]
    return _int(value)


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


Read = Callable[[At, Side, Draft], None]


def add_wrapper(at: At, side: Side, draft: Draft) -> None:
    """``auxiliary_model_wrapper``: its modules, under the paths by which losses find them."""
    key = at.need("key", "type").text()
    kwargs = at.get("kwargs", "params")
    side.prefix = "model" if key in _BOTH_SIDES else _PREFIX[side.role]
    at.ledger.take(at.path)
    if key == "EmptyModule":
        draft.leave(at, "EmptyModule", "no edge reads this side in this stage, so it does not run")
        return
    reader = _READ.get(key)
    if reader is None:
        why = _NOTHING_HERE.get(key) or near(key, {*_READ, *_NOTHING_HERE})
        why = why or "it is the user's own"
        for path in _MADE.get(key, ()):
            side.added[path] = f"{key}: {why}"
        draft.leave(at, f"the wrapper {key}", why, "links")
        return
    if kwargs is not None:
        reader(kwargs, side, draft)
    draft.carry(at, "adapters of links")


def _source(config: At) -> tuple[str, Io]:
    """The path and the side of what a module reads."""
    io = config.get("io")
    path = config.need("path").text()
    return path, "input" if io is not None and io.text() == "input" else "output"


def _connectors(kwargs: At, side: Side, draft: Draft) -> None:
    """``Connector4DAB``: a convolution, and a batch norm behind it where one is described."""
    for name, config in kwargs.need("connectors").items():
        path, io = _source(config)
        conv = config.need("conv2d_kwargs", "conv_params").table()
        norm = config.get("bn2d_kwargs", "bn_params")
        if norm is not None:
            norm.read()
        found = _conv(conv, conv.get("out_channels"), norm=norm is not None, relu=False)
        _put(f"connector_dict.{name}", name, config, (path, io), found, side, draft)


def _regressors(kwargs: At, side: Side, draft: Draft) -> None:
    """``VariationalDistributor4VID``: three 1x1 convolutions with ReLUs between; no biases."""
    for name, config in kwargs.need("regressors").items():
        path, io = _source(config)
        args = config.need("kwargs", "regressor_kwargs", "regressor_params").table()
        middle, out = args.get("middle_channels"), args.get("out_channels")
        first = {"use": "conv1x1", "bias": False, "activation": "relu"}
        chain: Any = [first, first, {"use": "conv1x1", "bias": False}]
        remarks = []
        if middle != out:
            remarks.append(f"{middle} channels between its convolutions are {out} here")
        if args.get("init_pred_var", 5.0) != 5 or args.get("eps", 1e-5) != 1e-5:
            remarks.append("the variance starts at 5 here, and stays above 1e-5")
        found = (chain, _int(out), remarks)
        _put(f"regressor_dict.{name}", name, config, (path, io), found, side, draft)


def _embeddings(kwargs: At, side: Side, draft: Draft) -> None:
    """``Student4ICKD``: a 3x3 convolution without bias and a batch norm."""
    for name, config in kwargs.need("embeddings").items():
        path, io = _source(config)
        args = config.table()
        conv = {"kernel_size": 3, "padding": 1}
        found = _conv(conv, args.get("out_channels", 128), norm=True, relu=False)
        _put(f"embed_dict.{name}", name, config, (path, io), found, side, draft)


def _put(
    path: str,
    name: str,
    config: At,
    source: tuple[str, Io],
    found: tuple[Any, int | None, list[str]],
    side: Side,
    draft: Draft,
) -> None:
    """Notes a module of a wrapper under the path by which losses find it."""
    adapter, channels, remarks = found
    if isinstance(adapter, str) and " " in adapter:
        side.added[path] = f"{name} {adapter}"
        draft.leave(config, f"the module {name}", adapter, "links")
        return
    told = [draft.differs(config, f"the module {name}", r) for r in remarks]
    side.added[path] = Added(name, *source, adapter, channels, tuple(told))
    config.ledger.take(config.path, whole=True)


_READ: dict[str, Read] = {
    "Connector4DAB": _connectors,
    "VariationalDistributor4VID": _regressors,
    "Student4ICKD": _embeddings,
}

_NOTHING_HERE = {
    "Teacher4FactorTransfer": "its paraphraser is trained on the teacher first, and adapters stand "
    "on the student's side; train one apart and hand over a teacher that ends in it",
    "Student4FactorTransfer": "its translator is three 3x3 convolutions, and the teacher's side "
    "needs a paraphraser",
    "Linear4CCKD": "it trains a layer on the teacher's side, too; adapters stand on the student's",
    "Linear4CRD": "contrastive memory banks are nothing that a spec has",
    "SSWrapper4SSKD": "self-supervised heads on both sides are nothing that a spec has",
    "VarianceBranch4PAD": "`prime_aware` has a layer of its own for the variances",
    "Student4KnowledgeReview": "its fusion modules read several places at once",
    "Student4KTAAD": "its paraphraser on the teacher's side is nothing that a spec has",
    "SRDModelWrapper": "its batch norms of both sides are nothing that a spec has",
    "HeadRCNN": "detectors read lists of images of different sizes",
}
_MADE = {  # the paths of their modules
    "Teacher4FactorTransfer": ("paraphraser", "paraphraser.encoder", "paraphraser.decoder"),
    "Student4FactorTransfer": ("translator",),
    "Linear4CCKD": ("linear",),
    "Linear4CRD": ("normalizer", "empty"),
    "SSWrapper4SSKD": ("ss_module",),
    "Student4KnowledgeReview": tuple(f"abf_modules.{i}" for i in range(16)),
    "Student4KTAAD": ("feature_adapter", "affinity_adapter"),
    "SRDModelWrapper": ("norm_layer", "linear"),
}
