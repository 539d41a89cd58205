"""What torchdistill's files may name: models, and what is known of them without building them."""

from __future__ import annotations

import re
from dataclasses import dataclass

# the builders of torchvision.models, as torchvision 0.27 lists them, but for quantised ones
_CLASSIFIERS = re.compile(
    r"""alexnet | googlenet | inception_v3 | maxvit_t
    | convnext_(base|large|small|tiny) | densenet(121|161|169|201)
    | efficientnet_(b[0-7]|v2_[lms]) | mnasnet(0_5|0_75|1_0|1_3)
    | mobilenet_v2 | mobilenet_v3_(large|small)
    | regnet_x_(16gf|1_6gf|32gf|3_2gf|400mf|800mf|8gf)
    | regnet_y_(128gf|16gf|1_6gf|32gf|3_2gf|400mf|800mf|8gf)
    | resnet(18|34|50|101|152) | resnext(50_32x4d|101_32x8d|101_64x4d)
    | wide_resnet(50|101)_2 | shufflenet_v2_x(0_5|1_0|1_5|2_0) | squeezenet1_[01]
    | swin_(v2_)?[bst] | vgg(11|13|16|19)(_bn)? | vit_(b_16|b_32|h_14|l_16|l_32)""",
    re.VERBOSE,
)
_SEGMENTERS = re.compile(
    r"deeplabv3_(mobilenet_v3_large|resnet50|resnet101)|fcn_resnet(50|101)"
    r"|lraspp_mobilenet_v3_large"
)
_DETECTORS = re.compile(r"(faster|mask|keypoint)rcnn_\w+|retinanet_\w+|fcos_\w+|ssd\w+")

# blocks of the four stages, and how often a block of theirs calls its one `relu`
_BLOCKS = {
    "resnet18": ((2, 2, 2, 2), 2), "resnet34": ((3, 4, 6, 3), 2), "resnet50": ((3, 4, 6, 3), 3),
    "resnet101": ((3, 4, 23, 3), 3), "resnet152": ((3, 8, 36, 3), 3),
    "wide_resnet50_2": ((3, 4, 6, 3), 3), "wide_resnet101_2": ((3, 4, 23, 3), 3),
    "resnext50_32x4d": ((3, 4, 6, 3), 3), "resnext101_32x8d": ((3, 4, 23, 3), 3),
    "resnext101_64x4d": ((3, 4, 23, 3), 3),
}  # fmt: skip

CIFAR = re.compile(r"resnet(20|32|44|56|110)")  # the same networks, with the same weights' names
_OWN = {  # further networks of torchdistill's own, and what they lack here
    r"resnet1202": "there is no cifar/resnet1202",
    r"wide_resnet(\d+_\d+)?": "the shortcut of its blocks reads what comes into the block, and "
    "that of the cifar/wrn-* networks its normalised activation",
    r"densenet(_bc)?(_k\d+_depth\d+)?": "there is no DenseNet for small images here",
}

# names that the hub keeps for models which had no organisation at first
_HUB = {
    "bert-": "google-bert", "roberta-": "FacebookAI", "xlm-": "FacebookAI",
    "distilbert-": "distilbert", "distilroberta-": "distilbert", "distilgpt2": "distilbert",
    "albert-": "albert", "gpt2": "openai-community", "t5-": "google-t5", "xlnet-": "xlnet",
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """What is known of a model.

    Attributes:
        name: the key that torchdistill's file picks it by.
        kind: what it reads and gives: ``image`` to a class, ``map`` to a class for each pixel,
            ``text`` to a class, ``boxes`` found in images, or ``unknown``.
        source: as a spec writes it; None where none here builds the same network.
        classes: how many, where it is written.
    """

    name: str
    kind: str = "unknown"
    source: str | None = None
    classes: int | None = None

    @property
    def output(self) -> str:
        """The tap of its prediction."""
        return {"text": "output.logits", "map": "output.out"}.get(self.kind, "output")

    @property
    def blocks(self) -> tuple[tuple[int, ...], int] | None:
        """Blocks of the stages ``layer1`` to ``layer4``, and how often each calls its ``relu``."""
        if self.source is None:
            return None
        family, _, name = self.source.partition("/")
        if family == "cifar" and name.startswith("resnet"):
            each = (int(name.removeprefix("resnet")) - 2) // 6
            return (each,) * 3, 2
        return _BLOCKS.get(name) if family == "torchvision" else None

    @property
    def is_cifar(self) -> bool:
        """Whether it is one of kdgraph's own networks, whose blocks name each ReLU."""
        return self.source is not None and self.source.startswith("cifar/")


def kind_of(name: str) -> str | None:
    """What a builder of torchvision gives (see ``Network``); None where there is none."""
    for kind, known in (("image", _CLASSIFIERS), ("map", _SEGMENTERS), ("boxes", _DETECTORS)):
        if known.fullmatch(name):
            return kind
    return None


def own_network(name: str) -> tuple[str, str] | None:
    """Why a network of torchdistill's own is none of kdgraph's, and its ``python/`` source."""
    for pattern, why in _OWN.items():
        if re.fullmatch(pattern, name):
            module = next(m for m in ("wide_resnet", "densenet", "resnet") if name.startswith(m))
            return why, f"python/torchdistill.models.classification.{module}:{name}"
    return None


def hub_name(name: str) -> str | None:
    """``org/name`` on the hub, or None where the organisation is not known."""
    if "/" in name:
        return name
    found = next((org for start, org in _HUB.items() if name.startswith(start)), None)
    return f"{found}/{name}" if found else None
