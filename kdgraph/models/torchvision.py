"""``torchvision/NAME``: the models of torchvision, segmentation and detection included."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kdgraph.errors import ModelError, near
from kdgraph.models.base import Source, register_source

if TYPE_CHECKING:
    from torch import nn

_PRETRAINED = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")
_ASK_FOR_INIT = ("googlenet", "inception_v3")


@register_source
class TorchvisionSource(Source):
    """Every name of ``torchvision.models.list_models()``; ``args`` go to its builder.

    ``weights`` takes torchvision's own names (``DEFAULT``, ``IMAGENET1K_V2``). Some builders
    (segmentation, detection) fetch a pretrained backbone unless ``weights_backbone: null``.
    """

    prefix = "torchvision"
    extra = "vision"

    def build(self, name: str, args: Mapping[str, Any]) -> nn.Module:
        models = self._models(name)
        self._implied(models, name, args)
        module: nn.Module = models.get_model(name, **args)
        return module

    def architecture(self, name: str, args: Mapping[str, Any], *, download: bool) -> nn.Module:
        models = self._models(name)
        bare = self._implied(models, name, args)
        bare |= {k: v for k, v in args.items() if k not in _PRETRAINED}
        takes = inspect.signature(models.get_model_builder(name)).parameters
        if "weights_backbone" in takes:
            bare["weights_backbone"] = None
        if name in _ASK_FOR_INIT:  # they warn when not told; here the values do not matter
            bare["init_weights"] = False
        module: nn.Module = models.get_model(name, weights=None, **bare)
        return module

    def pretrained(self, name: str, args: Mapping[str, Any]) -> bool:
        return args.get("weights") is not None

    def names(self) -> list[str]:
        models: list[str] = self.library("torchvision.models").list_models()
        return models

    def _models(self, name: str) -> ModuleType:
        if name not in self.names():
            raise self.unknown(name)
        return self.library("torchvision.models")

    def _implied(self, models: ModuleType, name: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that torchvision's builder sets by itself when it is given weights."""
        asked = args.get("weights")
        if asked is None:
            return {}
        known = models.get_model_weights(name)
        member = str(asked).removeprefix(f"{known.__name__}.")
        if member not in known.__members__:
            raise ModelError.of(
                "KD411",
                f"torchvision/{name} has no weights {member!r}",
                help=near(member, known.__members__) or f"it has {', '.join(known.__members__)}",
            )
        meta = known[member].meta
        implied: dict[str, Any] = {}
        if meta.get("categories"):
            implied["num_classes"] = len(meta["categories"])
            if args.get("num_classes", implied["num_classes"]) != implied["num_classes"]:
                raise ModelError.of(
                    "KD413",
                    f"weights {member} of torchvision/{name} are for {implied['num_classes']} "
                    f"classes, not {args['num_classes']}",
                    help="leave out `num_classes`, or leave out `weights` to start untrained",
                )
        if "keypoint_names" in meta:
            implied["num_keypoints"] = len(meta["keypoint_names"])
        if "aux_loss" in inspect.signature(models.get_model_builder(name)).parameters:
            implied["aux_loss"] = True
        if name.startswith("vit_"):
            implied["image_size"] = meta["min_size"][0]
        if name in _ASK_FOR_INIT:
            implied |= {"transform_input": True, "aux_logits": name == "inception_v3"}
        return implied
