"""LoRA by peft, which is imported on first use only: put into a model, merged out of a copy."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from torch import nn

from kdgraph.errors import ModelError, Span
from kdgraph.spec.adapted import LoraSpec


def add_lora(module: nn.Module, written: LoraSpec, span: Span | None = None) -> None:
    """Puts adapters beside linear layers, in place, and freezes everything else.

    A model that has such adapters already stays as it is.

    Args:
        module: any model; its class, and the paths of its modules, stay what they are.
        written: what the spec says.
        span: where it says it, for errors.

    Raises:
        ModelError: KD414 without peft, KD419 when there is nothing to put them beside.
    """
    peft = _peft(span)
    if any(is_adapted(m) for m in module.modules()):
        return
    targets: Any = list(written.targets) if written.targets is not None else None
    config = peft.LoraConfig(
        r=written.r,
        lora_alpha=written.alpha,
        lora_dropout=written.dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a Conv1D, whose layout peft then sees to
            peft.inject_adapter_in_model(config, module)
    except ValueError as error:
        raise ModelError.of(
            "KD419",
            f"LoRA cannot be put into the model: {str(error).partition('. ')[0]}",
            span=span,
            help=f"ends of paths of linear layers: {', '.join(_linears(module))}",
        ) from error


def is_adapted(module: nn.Module) -> bool:
    """Whether a module is a layer that peft has put adapters beside."""
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    return tuners is not None and isinstance(module, tuners.BaseTunerLayer)


def merged(layer: Any) -> nn.Module:
    """The plain layer that equals an adapted one; ``layer`` is used up."""
    layer.merge()
    base: nn.Module = layer.get_base_layer()
    return base


def _peft(span: Span | None) -> Any:
    try:
        import peft
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise ModelError.of(
            "KD414",
            f"`lora` needs peft, which cannot be imported: {error}",
            span=span,
            help="pip install 'kdgraph[llm]'",
        ) from error
    return peft


def _linears(module: nn.Module) -> list[str]:
    """The last parts of the paths of linear layers, each once, and no more than a dozen."""
    names = (n.rpartition(".")[2] for n, m in module.named_modules() if type(m) is nn.Linear)
    return list(dict.fromkeys(names))[:12]
