"""``timm/NAME``: the models of PyTorch Image Models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdgraph.errors import ModelError
from kdgraph.models.base import Source, register_source

if TYPE_CHECKING:
    from torch import nn

_READS_FILES = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")  # or any address


@register_source
class TimmSource(Source):
    """Every name that ``timm.create_model`` takes; ``args`` are its arguments.

    But not those that say where weights are read from: some versions of timm unpickle them.

    So ``timm/resnet26``, ``timm/resnet50.a1_in1k`` with ``pretrained: true``,
    ``timm/hf-hub:org/name`` and ``timm/local-dir:folder``.
    """

    prefix = "timm"
    extra = "vision"

    def build(self, name: str, args: Mapping[str, Any]) -> nn.Module:
        for key in _READS_FILES:
            if key in args:
                raise ModelError.of(
                    "KD412",
                    f"timm/ models take no `{key}`: it reads a file that may run code",
                    help="use `weights:` for a file of weights",
                )
        timm = self.library("timm")
        if ":" not in name and not timm.is_model(name.partition(".")[0]):
            raise self.unknown(name)
        module: nn.Module = timm.create_model(name, **args)
        return module

    def architecture(self, name: str, args: Mapping[str, Any], *, download: bool) -> nn.Module:
        if name.startswith(("hf-hub:", "hf_hub:")) and not download:
            name = self._cached(name)
        bare = {k: v for k, v in args.items() if k != "pretrained"}
        return self.build(name, bare)

    def pretrained(self, name: str, args: Mapping[str, Any]) -> bool:
        return bool(args.get("pretrained"))

    def names(self) -> list[str]:
        models: list[str] = self.library("timm").list_models()
        return models

    def _cached(self, name: str) -> str:
        """The local folder of a hub model, so that timm does not ask the hub about it."""
        identifier, _, revision = name.partition(":")[2].partition("@")
        hub = self.library("huggingface_hub")
        config = hub.try_to_load_from_cache(identifier, "config.json", revision=revision or None)
        if not isinstance(config, str):
            raise ModelError.of(
                "KD415",
                f"the description of timm/{name} is not on this machine",
                help=f"fetch it once with `hf download {identifier} config.json`",
            )
        return f"local-dir:{Path(config).parent}"
