"""Example inputs of a model, guessed from what its library says about it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import yaml

from kdgraph.spec.scalars import ScalarError, resolve

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = 13  # seldom a size that a model fixes
TOKENS = 16
_IMAGE = (3, 224, 224)


def size(text: str) -> tuple[int, ...]:
    """``3x224x224``, without the batch, as numbers."""
    parts = text.lower().split("x")
    if not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise click.BadParameter(f"{text!r} is no size; write it like 3x224x224")
    return tuple(int(p) for p in parts)


def argument(text: str) -> tuple[str, Any]:
    """``key=value`` as a pair, the value read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"{text!r} is not of the form key=value")
    try:
        return key, yaml.safe_load(value) if value[:1] in ("[", "{") else resolve(value)
    except (ScalarError, yaml.YAMLError) as error:
        raise click.BadParameter(f"{key}: {error}") from error


def example_inputs(
    source: str, module: nn.Module, args: Mapping[str, Any], given: Sequence[int] | None
) -> dict[str, Tensor]:
    """Zeros for the arguments of ``forward`` that a model cannot do without.

    Args:
        source: ``PREFIX/NAME``.
        module: the model.
        args: what it was built with.
        given: size of the main input without the batch; None guesses it.
    """
    import torch

    first = next(iter(inspect.signature(module.forward).parameters), "input")
    main = str(getattr(module, "main_input_name", first))
    if main == "input_ids":
        wanted = tuple(given or (TOKENS,))
        tokens = torch.zeros((BATCH, *wanted), dtype=torch.int64)
        return {main: tokens, **_decoder(module)}
    found = {main: torch.zeros((BATCH, *(given or _guess(source, module, args, main))))}
    return {**found, **_decoder(module)}


def _decoder(module: nn.Module) -> dict[str, Tensor]:
    import torch

    if not getattr(getattr(module, "config", None), "is_encoder_decoder", False):
        return {}
    return {"decoder_input_ids": torch.zeros((BATCH, TOKENS), dtype=torch.int64)}


def _guess(source: str, module: nn.Module, args: Mapping[str, Any], main: str) -> tuple[int, ...]:
    if source.startswith("cifar/"):
        return (3, 32, 32)
    written = getattr(module, "pretrained_cfg", None) or {}  # of timm
    if "input_size" in written:
        channels, height, width = written["input_size"]
        side = args.get("img_size")
        height, width = (side, side) if isinstance(side, int) else (height, width)
        return (int(args.get("in_chans", channels)), int(height), int(width))
    config = getattr(module, "config", None)  # of transformers
    if main == "input_values":
        return (16000,)
    if main == "input_features":
        return (config.num_mel_bins, 2 * config.max_source_positions)  # type: ignore[union-attr]  # transformers' alone
    side = getattr(config, "image_size", None)
    if isinstance(side, int):
        return (int(getattr(config, "num_channels", 3)), side, side)
    return (3, 299, 299) if source == "torchvision/inception_v3" else _IMAGE
