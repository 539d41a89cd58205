"""``models``: which networks there are, with what weights."""

from __future__ import annotations

from typing import Any

from kdgraph.importers._draft import Draft, Model
from kdgraph.importers._tagged import At
from kdgraph.importers._torchdistill.known import (
    CIFAR,
    Network,
    hub_name,
    kind_of,
    own_network,
)
from kdgraph.importers._values import Opaque
from kdgraph.spec.files import WEIGHTS

_ROLES = {"teacher_model": "teacher", "student_model": "student", "model": "student"}
_HUBS = {  # torch.hub's names of libraries that kdgraph has sources for
    "pytorch/vision": "torchvision",
    "huggingface/pytorch-image-models": "timm",
    "rwightman/pytorch-image-models": "timm",
}


def read_models(models: At, draft: Draft) -> dict[str, Network]:
    """Fills ``models`` of the draft; what is known of each, by its name in the spec."""
    found = {}
    for key, at in models.items():
        role = _ROLES.get(key)
        if role is None or at.is_empty:
            continue
        model = Model()
        draft.models[role] = model
        found[role] = _read(role, at, model, draft)
        at.ledger.take(at.path)
    return found


def _read(role: str, at: At, model: Model, draft: Draft) -> Network:
    name_at = at.need("key", "name", "type")
    name = name_at.text()
    network = _text_model(name, at, model, draft) or _image_model(name, at, model, draft)
    to = network.source or "a model that is given in Python"
    draft.carry(at, f"models.{role}: {to}")
    if network.source is None:
        model.remarks.append(
            f"{name!r}: no source builds it; hand it over: compile(..., models={{{role!r}: net}})"
        )
    model.source = network.source
    _weights(role, at, model, draft)
    for key in ("experiment", "_experiment", "_weights", "_backbone_weights"):
        if (helper := at.get(key)) is not None:
            draft.carry(helper, "nothing: other lines refer to it", whole=True)
    return network


def _text_model(name: str, at: At, model: Model, draft: Draft) -> Network | None:
    """A classifier of transformers; None when it is none."""
    path = at.get("model_name_or_path")
    if path is None:
        return None
    written = path.text()
    source = hub_name(written)
    config, weights, tokens = (
        at.get(f"{k}_kwargs", f"{k}_params") for k in ("config", "model", "tokenizer")
    )
    labels = config.get("num_labels") if config is not None else None
    classes = labels.count() if labels is not None else None
    for part in (config, weights):
        again = part.get("pretrained_model_name_or_path") if part is not None else None
        if again is not None:
            again.read()
    if tokens is not None:
        draft.leave(tokens, "a tokenizer", "text is made numbers of before kdgraph sees it")
    model.args = {"head": "sequence-classification"}
    if classes is not None:
        model.args["num_labels"] = classes
    model.input = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
    if written.rpartition("/")[2].startswith(("bert-", "electra-", "xlnet-", "albert-")):
        model.input["token_type_ids"] = "token_type_ids"
    if source is None:
        model.args = {}
        return Network(name, "text", None, classes)
    return Network(name, "text", f"hf/{source}", classes)


def _image_model(name: str, at: At, model: Model, draft: Draft) -> Network:
    args_at = at.get("kwargs", "params")
    args = {k: at for k, at in args_at.items() if not at.is_empty} if args_at is not None else {}
    classes = args["num_classes"].count() if "num_classes" in args else None
    hub = at.get("repo_or_dir")
    if hub is not None:
        family = _HUBS.get(hub.text().partition(":")[0])
        if family is None:
            draft.leave(hub, "a repository of torch.hub", "its code would have to be run")
            return _given(name, args_at, draft, classes)
        draft.carry(hub, f"the sources {family}/")
        kind = kind_of(name) if family == "torchvision" else "image"
        _arguments(args, model, draft, kind if family == "torchvision" else None)
        return Network(name, kind or "unknown", f"{family}/{name}", classes)
    if (cifar := _cifar_name(name, args)) is not None:
        _cifar_arguments(args, model, draft)
        return Network(name, "image", f"cifar/{cifar}", classes or 10)
    kind = kind_of(name)
    if kind == "boxes" or kind is None:
        return _unknown(name, at, args_at, model, draft, classes, kind)
    _arguments(args, model, draft, kind)
    return Network(name, kind, f"torchvision/{name}", classes)


def _unknown(
    name: str, at: At, args_at: At | None, model: Model, draft: Draft, classes: int | None,
    kind: str | None,
) -> Network:  # fmt: skip
    """A network that no source builds, and why."""
    known = own_network(name)
    if known is not None:
        why, source = known
        model.remarks.append(f"{why}. With --trust torchdistill: `source: {source}`")
        draft.differs(at, f"the network {name}", why)
        return _given(name, args_at, draft, classes, "image")
    if kind == "boxes":
        why = "it reads lists of images of different sizes, which no batch entry can be"
        draft.differs(at, f"the network {name}", why)
        return _given(name, args_at, draft, classes, "boxes")
    draft.differs(at, f"the network {name}", "it is the user's own, or of another library")
    return _given(name, args_at, draft, classes)


def _given(
    name: str, args_at: At | None, draft: Draft, classes: int | None, kind: str = "unknown"
) -> Network:
    if args_at is not None:
        draft.leave(args_at, "arguments of a model", "it is built in Python, with them")
    return Network(name, kind, None, classes)


def _cifar_name(name: str, args: dict[str, At]) -> str | None:
    """The name under ``cifar/`` of the same network."""
    if name == "resnet" and "depth" in args:
        name = f"resnet{args['depth'].read()}"
    others = set(args) - {"depth", "num_classes", "pretrained", "progress"}
    return name if CIFAR.fullmatch(name) and not others else None


def _cifar_arguments(args: dict[str, At], model: Model, draft: Draft) -> None:
    if "num_classes" in args:
        model.args["num_classes"] = args["num_classes"].count()
    if "progress" in args:
        args["progress"].read()
    if "pretrained" in args and args["pretrained"].flag():
        why = "torchdistill downloads them; fetch the file and write `weights`"
        model.remarks.append(draft.differs(args["pretrained"], "pretrained weights", why))


def _arguments(args: dict[str, At], model: Model, draft: Draft, kind: str | None) -> None:
    """Arguments of torchvision, and its two ways to ask for weights; of timm, without a kind."""
    for key, at in args.items():
        value = at.read()
        if key == "progress":
            continue
        if key in ("weights", "weights_backbone") and isinstance(value, Opaque | str):
            name = value.name if isinstance(value, Opaque) else value
            model.args[key] = str(name).rpartition(".")[2]
        elif kind and key in ("pretrained", "pretrained_backbone") and isinstance(value, bool):
            new = key.replace("pretrained", "weights")
            whole = kind == "map" and new == "weights"  # as torchvision reads the older word
            if value and new not in args:
                model.args[new] = "COCO_WITH_VOC_LABELS_V1" if whole else "IMAGENET1K_V1"
        elif _is_opaque(value):
            draft.leave(at, f"the argument {key}", f"only running {value} would tell it")
        else:
            model.args[key] = value


def _is_opaque(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_is_opaque, value.values()))
    if isinstance(value, list):
        return any(map(_is_opaque, value))
    return isinstance(value, Opaque)


def _weights(role: str, at: At, model: Model, draft: Draft) -> None:
    """Files of weights: the one that is read, and the one that is written."""
    for key in ("src_ckpt", "start_ckpt", "ckpt"):
        file = at.get(key)
        if file is None:
            continue
        path = file.read()
        if key == "ckpt" and role == "student":
            draft.leave(file, "where weights are saved", "`kdgraph train -o DIR` says it")
        elif not isinstance(path, str) or not path.endswith(WEIGHTS):
            why = f"`weights` takes {', '.join(WEIGHTS)}, not {path}"
            draft.leave(file, "a file of weights", why)
        else:
            model.weights = path
            draft.carry(file, f"models.{role}.weights")
            why = (
                "it is looked for beside the spec, and has to hold tensors alone: of a checkpoint "
                "of torchdistill save its entry 'model' apart"
            )
            model.remarks.append(draft.differs(file, "a file of weights", why))
    if (out := at.get("dst_ckpt")) is not None:
        draft.leave(out, "where weights are saved", "`kdgraph train -o DIR` says it")
