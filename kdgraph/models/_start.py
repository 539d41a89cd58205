"""The weights of one model as those of another that has fewer of its layers."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from kdgraph.errors import ModelError, near
from kdgraph.models.weights import check_tensors


def start_from(
    module: nn.Module,
    other: nn.Module,
    layers: Mapping[str, Sequence[int]],
    name: str,
    *,
    skeleton: bool = False,
) -> None:
    """Copies the weights of ``other`` into ``module``; all that it has, or nothing.

    Args:
        module: what gets them.
        other: what has them; nothing in it changes.
        layers: path of a list of layers, in both, to the number in ``other`` of each.
        name: what ``other`` is called, for errors.
        skeleton: neither has values, so that it is only seen whether they fit.

    Raises:
        ModelError: KD416 when they do not fit.
    """
    for path, numbers in layers.items():
        _check(path, numbers, len(_layers(module, path, "the model")),
               len(_layers(other, path, repr(name))), name)  # fmt: skip
    given: dict[str, Tensor] = {}
    for key, value in other.state_dict(keep_vars=True).items():
        for new in _renamed(key, layers):
            given[new] = value
    # by what is tied there, and not by values: the check, which has none, is to say the same
    check_tensors(module, given, f"model {name!r}", same=operator.is_)
    if not skeleton:  # which would take the memory of real weights
        module.load_state_dict(given, strict=False)


def _layers(module: nn.Module, path: str, what: str) -> nn.ModuleList | nn.Sequential:
    lists = {
        n: m for n, m in module.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential)
    }
    if path not in lists:
        known = ", ".join(n for n in lists if n)
        raise ModelError.of(
            "KD416",
            f"{what} has no list of layers {path!r}",
            help=near(path, lists) or (f"it has {known}" if known else None),
        )
    return lists[path]


def _check(path: str, numbers: Sequence[int], have: int, there: int, name: str) -> None:
    if len(numbers) != have:
        message = f"layers in {path!r}: the model has {have}, `start_from` names {len(numbers)}"
        raise ModelError.of("KD416", message, help="name one layer to start from for each")
    if max(numbers) >= there:
        message = f"{path!r} has {there} layers in {name!r}, counted from 0: no {max(numbers)}"
        raise ModelError.of("KD416", message)


def _renamed(key: str, layers: Mapping[str, Sequence[int]]) -> list[str]:
    """The names under which a tensor is copied: one for each layer that starts from its own."""
    for path, numbers in layers.items():
        number, _, rest = key.removeprefix(f"{path}.").partition(".")
        if key.startswith(f"{path}.") and number.isdecimal():
            return [f"{path}.{at}.{rest}" for at, old in enumerate(numbers) if old == int(number)]
    return [key]
