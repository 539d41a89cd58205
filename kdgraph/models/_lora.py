"""LoRA by peft, which is imported on first use only: put into a model, merged out of a copy."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from typing import Any

from torch import nn

from kdgraph.errors import ModelError, Span, near
from kdgraph.spec.adapted import LoraSpec


def add_lora(module: nn.Module, written: LoraSpec, span: Span | None = None) -> None:
    """Puts adapters beside linear layers, in place, and freezes everything else.

    A model that has such adapters already stays as it is.

    Args:
        module: any model; its class, and the paths of its modules, stay what they are.
        written: what the spec says.
        span: where it says it, for errors.

    Raises:
        ModelError: KD414 without peft, KD419 when there is nothing to put them beside, or when
            what they are put beside shares its weight, which could not be merged.
    """
    peft = _peft(span)
    if any(is_adapted(m) for m in module.modules()):
        return
    targets: Any = list(written.targets) if written.targets is not None else None
    if targets != ["all-linear"]:
        _check_targets(module, targets or (), span)
    shared = _shared(module)
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
    for path, layer in module.named_modules():
        if is_adapted(layer) and path in shared:
            message = f"LoRA cannot be put beside {path!r}, whose weight is that of "
            message += f"{shared[path]!r} too: merged into it, adapters would change both"
            help = "leave it out of `targets`, or build the model without tied weights"
            raise ModelError.of("KD419", message, span=span, help=help)


def _check_targets(module: nn.Module, targets: Iterable[str], span: Span | None) -> None:
    """Refuses a target that no path ends in: peft is content when it finds one of them."""
    paths = [name for name, _ in module.named_modules()]
    for target in targets:
        if not any(path == target or path.endswith(f".{target}") for path in paths):
            known = _linears(module)
            hint = near(target, known) or f"ends of paths of linear layers: {', '.join(known)}"
            message = f"LoRA cannot be put into the model: no path in it ends in {target!r}"
            raise ModelError.of("KD419", message, span=span, help=hint)


def _shared(module: nn.Module) -> dict[str, str]:
    """Paths of modules that share a parameter, to that of another that holds it."""
    holders: dict[int, list[str]] = {}
    for path, part in module.named_modules():
        for parameter in part.parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(path)
    several = [paths for paths in holders.values() if len(paths) > 1]
    return {path: next(p for p in paths if p != path) for paths in several for path in paths}


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
