"""``hf/TYPE`` and ``hf/ORG/NAME``: the models of transformers, from scratch or pretrained."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kdgraph.errors import ModelError, near
from kdgraph.models._installed import PACKAGE, place_of
from kdgraph.models.base import Source, register_source

if TYPE_CHECKING:
    from torch import nn

_RUNS_CODE = (
    "trust_remote_code", "weights_only", "use_kernels", "allow_all_kernels", "kernel_config"
)  # fmt: skip
_ANY_CONFIG = ("attn_implementation", "tie_word_embeddings")  # read by all, declared by few


@register_source
class HuggingFaceSource(Source):
    """Models of transformers.

    ``hf/bert`` (a model type) is built from scratch and ``args`` are fields of its config.
    ``hf/org/name`` (a model id, or a local folder such as ``hf/./folder``) is loaded with
    ``from_pretrained``, which takes ``args``. ``hf/package:NAME`` and ``hf/package:NAME/folder``
    are the folder of an installed Python package, or one in it; nothing of the package is run.
    In all of them ``head`` picks the auto class by its task:
    ``causal-lm`` is ``AutoModelForCausalLM``, ``image-classification`` is
    ``AutoModelForImageClassification``; without it the model is ``AutoModel``, which has no head.
    With ``gguf_file: NAME`` the weights are those of a GGUF file in the folder.

    Weights are float32, whatever type they are stored in, unless ``args`` say ``dtype: bfloat16``.
    Models keep no cache, unless ``args`` say ``use_cache: true``: whole rows need none, and with
    one a decoder no longer tells documents by their positions.
    """

    prefix = "hf"
    extra = "hf"

    def build(self, name: str, args: Mapping[str, Any]) -> nn.Module:
        transformers, auto, fields = self._prepare(name, args)
        module: nn.Module
        if _is_type(name):
            module = auto.from_config(_config(transformers, name, fields))
        else:
            kind = _kind(fields)
            module = auto.from_pretrained(place_of(name), trust_remote_code=False, **kind, **fields)
        return _without_cache(module, fields)

    def architecture(self, name: str, args: Mapping[str, Any], *, download: bool) -> nn.Module:
        if _is_type(name):
            return self.build(name, args)
        transformers, auto, fields = self._prepare(name, args)
        try:
            config, rest = transformers.AutoConfig.from_pretrained(
                place_of(name),
                local_files_only=not download,
                trust_remote_code=False,
                return_unused_kwargs=True,
                **fields,
            )
        except OSError as error:
            if download or Path(place_of(name)).is_dir():
                raise
            raise ModelError.of(
                "KD415",
                f"the config of hf/{name} is not on this machine",
                help=f"fetch it once with `hf download {name} config.json`",
            ) from error
        rest.pop("gguf_file", None)  # which the config was read from
        return _without_cache(auto.from_config(config, **_kind(fields), **rest), fields)

    def pretrained(self, name: str, args: Mapping[str, Any]) -> bool:
        return not _is_type(name)

    def names(self) -> list[str]:
        return sorted(self.library("transformers").CONFIG_MAPPING.keys())

    def _prepare(
        self, name: str, args: Mapping[str, Any]
    ) -> tuple[ModuleType, Any, dict[str, Any]]:
        """transformers, the auto class that ``head`` names, and the arguments without ``head``."""
        transformers = self.library("transformers")
        if _is_type(name) and name not in transformers.CONFIG_MAPPING:
            raise ModelError.of(
                "KD411",
                f"transformers has no model type {name!r}",
                help=near(name, self.names()) or "a pretrained model is named hf/ORG/NAME",
            )
        fields = dict(args)
        for said in _foreign_code(fields):
            raise ModelError.of(
                "KD412",
                f"hf/ models take no `{said}`: a spec runs no code that comes from a hub",
                help="build it in a module of your own: python/package.module:callable",
            )
        if "gguf_file" in fields:
            for module in ("gguf", "accelerate"):  # which transformers reads such files with
                self.library(module, "llm")
        return transformers, _auto_class(transformers, fields.pop("head", None)), fields


def _is_type(name: str) -> bool:
    """Whether ``name`` is a model type; a model id or a folder has a slash, a package a prefix."""
    return "/" not in name and not name.startswith(PACKAGE)


def _kind(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The type of weights; left alone, transformers takes that of the file, often bfloat16."""
    import torch

    return {} if {"dtype", "torch_dtype"} & fields.keys() else {"dtype": torch.float32}


def _without_cache(module: Any, fields: Mapping[str, Any]) -> nn.Module:
    """A model as it is, its cache off unless it was asked for."""
    config: Any = getattr(module, "config", None)
    parts = [getattr(config, name, None) for name in getattr(config, "sub_configs", ())]
    for part in (config, *parts) if "use_cache" not in fields else ():
        if getattr(part, "use_cache", False):
            part.use_cache = False
    built: nn.Module = module
    return built


def _foreign_code(value: Any) -> Iterator[str]:
    """The arguments, at any depth, by which transformers runs code that is not its own."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in _RUNS_CODE:
                yield key
            # attn_implementation: ORG/NAME is a kernel of the hub; it may be given by part
            elif "_implementation" in str(key) and any("/" in text for text in _texts(inner)):
                yield f"{key}: {inner}"
            else:
                yield from _foreign_code(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _foreign_code(inner)


def _texts(value: Any) -> Iterator[str]:
    """Every string that is a value within ``value``."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _auto_class(transformers: ModuleType, head: str | None) -> Any:
    """``causal-lm`` -> ``transformers.AutoModelForCausalLM``; None -> ``AutoModel``."""
    if head is None:
        return transformers.AutoModel
    tasks = {
        re.sub(r"(?<=[a-z])(?=[A-Z])", "-", found.removeprefix("AutoModelFor")).lower(): found
        for found in dir(transformers)
        if found.startswith("AutoModelFor")
    }
    if head not in tasks:
        raise ModelError.of(
            "KD411",
            f"transformers has no head {head!r}",
            help=near(str(head), tasks) or f"heads: {', '.join(sorted(tasks))}",
        )
    return getattr(transformers, tasks[head])


def _config(transformers: ModuleType, name: str, fields: Mapping[str, Any]) -> Any:
    """A config of type ``name``; unknown fields, which transformers would keep, are errors."""
    kind = transformers.CONFIG_MAPPING[name]
    known = {*_ANY_CONFIG, *inspect.signature(kind).parameters, *dir(kind)}
    known.update(kind.attribute_map, kind.sub_configs)
    for field in fields:
        if field not in known:
            raise ModelError.of(
                "KD413", f"the config of hf/{name} has no field {field!r}", help=near(field, known)
            )
    return kind(**fields)
