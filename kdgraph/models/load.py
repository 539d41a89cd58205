"""From ``source``, ``args`` and ``weights`` of a spec to a module."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdgraph.errors import KDGraphError, ModelError, Span
from kdgraph.models.base import SOURCES, Source
from kdgraph.models.foreign import trusts
from kdgraph.models.weights import check_finite, load_weights

if TYPE_CHECKING:
    from torch import nn

_LONGEST = 400  # characters of a library's message that are repeated


def build_model(
    source: str,
    args: Mapping[str, Any],
    *,
    weights: Path | None = None,
    trust: Collection[str] = (),
    span: Span | None = None,
) -> nn.Module:
    """Builds a model, and loads ``weights`` into it if they are given.

    With ``weights`` no pretrained weights are fetched, as the file replaces all of them, and
    torch's random state is left as it was.

    Args:
        source: ``PREFIX/NAME``.
        args: Arguments for the source.
        weights: A ``.safetensors`` file, or a ``.pt``/``.pth`` of tensors only.
        trust: Modules of the user's own that may be imported.
        span: Where the spec names the model, for errors.

    Raises:
        ModelError: KD410 no such form; KD201 no such source; KD411 no such name; KD412 not
            trusted; KD413 cannot be built with these arguments; KD414 library missing; KD415
            weights cannot be had; KD416 weights do not fit; KD417 they are not finite.
    """
    with _reported(source, span):
        found, name = _find(source, trust)
        if weights is None:
            return _module(found.build(name, args))
        import torch

        with torch.random.fork_rng(devices=[]):
            module = _module(found.architecture(name, args, download=True))
        load_weights(module, weights)
        check_finite(module, weights)
        return module


def build_skeleton(
    source: str,
    args: Mapping[str, Any],
    *,
    trust: Collection[str] = (),
    span: Span | None = None,
) -> nn.Module:
    """Builds a model on the CPU for its shapes alone: parameters hold no meaningful values.

    Nothing is downloaded, no time is spent on initial values, and torch's random state is left as
    it was. Buffers and tied parameters are as in the real model.

    Raises:
        ModelError: As `build_model`; KD415 too where a description is not on this machine.
    """
    with _reported(source, span):
        found, name = _find(source, trust)
        import torch

        from kdgraph.models.nets.no_init import NoInit

        with torch.random.fork_rng(devices=[]), torch.device("cpu"), NoInit():
            return _module(found.architecture(name, args, download=False))


def build_untrained(
    source: str,
    args: Mapping[str, Any],
    *,
    trust: Collection[str] = (),
    span: Span | None = None,
) -> nn.Module:
    """Builds a model with random weights, whatever ``args`` ask; nothing is downloaded.

    Raises:
        ModelError: As `build_model`; KD415 too where a description is not on this machine.
    """
    with _reported(source, span):
        found, name = _find(source, trust)
        return _module(found.architecture(name, args, download=False))


def is_pretrained(source: str, args: Mapping[str, Any]) -> bool:
    """Whether a source gives the same trained weights each time that it builds."""
    prefix, _, name = source.partition("/")
    return prefix in SOURCES.names() and SOURCES.get(prefix).pretrained(name, args)


def _find(source: str, trust: Collection[str]) -> tuple[Source, str]:
    prefix, slash, name = source.partition("/")
    if not slash or not name:
        forms = ", ".join(f"{known}/" for known in SOURCES.names())
        raise ModelError.of(
            "KD410",
            f"{source!r} does not say where the model comes from",
            help=f"write PREFIX/NAME, such as timm/resnet50; prefixes: {forms}",
        )
    found = SOURCES.get(prefix)
    foreign = found.foreign_module(name)
    if foreign is not None and not trusts(trust, foreign):
        raise ModelError.of(
            "KD412",
            f"{source} runs code of the module {foreign!r}, which is not trusted",
            help=f"--trust {foreign}, or compile(..., trust=[{foreign!r}])",
        )
    return found, name


def _module(built: object) -> nn.Module:
    from torch import nn

    if not isinstance(built, nn.Module):
        raise TypeError(f"a {type(built).__name__} was built, not a torch.nn.Module")
    return built


@contextmanager
def _reported(source: str, span: Span | None) -> Iterator[None]:
    """Gives errors their place, and turns whatever a library raises into a `ModelError`."""
    try:
        yield
    except KDGraphError as error:
        raise ModelError(replace(d, span=d.span or span) for d in error.diagnostics) from error
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]} ..."
        if isinstance(error, OSError):
            code, message = "KD415", f"{source} cannot be fetched or read: {said}"
            hint = "`weights:` takes a file; without pretrained weights nothing is fetched"
        else:
            last = traceback.extract_tb(error.__traceback__)[-1]
            code, message = "KD413", f"{source} cannot be built: {said}"
            hint = f"raised at {last.filename}:{last.lineno}, in {last.name}"
        raise ModelError.of(code, message, span=span, help=hint) from error
