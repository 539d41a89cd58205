"""What each kind of node does to the neurons (or channels) that stand in what it reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized

from kdgraph.actions._spots import Closed, Spot, Stuck, order_of, reduced, reshaped, shape_of
from kdgraph.actions._widths import is_depthwise
from kdgraph.actions._words import (
    JOINS,
    KEEP_ZERO,
    MEANS,
    MOVE_ZERO,
    POOLS,
    SCALES,
    SHAPES,
    SIZES,
    SUMS,
    UNCHANGED,
    name_of,
    raw_word,
    word_of,
)


class Cut(NamedTuple):
    """A tensor of a module that has the neurons in one of its dimensions."""

    tensor: str
    spot: Spot


@dataclass(frozen=True)
class Step:
    """What a node does to the neurons.

    Attributes:
        spot: where they stand in what comes out; None where they end here, in a sum over them.
        cuts: the tensors of the node's module that shrink with them.
        zero: a neuron that is 0 stays 0.
        activates: it is an activation.
    """

    spot: Spot | None
    cuts: tuple[Cut, ...] = ()
    zero: bool = True
    activates: bool = False


def start(node: fx.Node, module: nn.Module) -> tuple[Spot, tuple[Cut, ...]]:
    """Where the neurons of a layer stand in what one of its calls returns, and in its tensors."""
    _plain(module)
    if isinstance(module, _ConvNd):
        if module.groups > 1:
            raise Stuck(
                "its channels are tied to those of the layer before it; name that layer"
                if is_depthwise(module)
                else f"its {module.groups} groups would become unequal"
            )
        spot = _channels(node, module)
        return spot, _cuts(module, weight=Spot(int(isinstance(module, _ConvTransposeNd))))
    if isinstance(module, nn.Linear):
        return Spot(len(shape_of(node)) - 1), _cuts(module, weight=Spot(0))
    raise Stuck(f"it is a {type(module).__name__}; neurons are those of a Linear or a Conv")


def step(node: fx.Node, module: nn.Module | None, spots: Mapping[fx.Node, Spot]) -> Step | None:
    """What a node does to the neurons in what it reads; None where it only looks at sizes.

    Raises:
        Stuck: with the reason why they cannot be removed.
    """
    given = [n for n in node.all_input_nodes if n in spots]
    word = word_of(node, module)
    if word in SIZES or (word == "getattr" and node.args[1] in ("shape", "ndim", "dtype")):
        return None
    if word in SCALES or word in SUMS:
        return _arithmetic(node, word, spots)
    if word in JOINS:
        raise Stuck("a concatenation shares them")
    if len(given) > 1 or node.args[:1] != (given[0],):
        raise Stuck(f"it is not known what {name_of(node, module)} does with them")
    spot, before = spots[given[0]], shape_of(given[0])
    if module is not None and (found := _of_module(node, module, spot, before)):
        return found
    if not isinstance(node.meta.get("val"), Tensor):
        raise Stuck(f"{name_of(node, module)} returns several tensors")
    return _by_word(node, module, word, spot, before)


def _of_module(node: fx.Node, module: nn.Module, spot: Spot, before: Sequence[int]) -> Step | None:
    """What modules with tensors of their own do; None for all others."""
    if isinstance(module, nn.Linear):
        _plain(module)
        if spot.dim != len(before) - 1:
            raise Stuck(f"{node.target} sums over another dimension than theirs")
        return Step(None, (Cut("weight", Spot(1, spot.block)),))
    if isinstance(module, _ConvNd):
        _plain(module)
        if spot.dim != _channels(node, module).dim:
            raise Stuck(f"{node.target} sums over another dimension than theirs")
        if is_depthwise(module):
            own = Spot(0, spot.block * (module.out_channels // module.groups))
            return Step(Spot(spot.dim, own.block), _cuts(module, weight=own), module.bias is None)
        if module.groups > 1:
            raise Stuck(f"the {module.groups} groups of {node.target} would become unequal")
        inside = 0 if isinstance(module, _ConvTransposeNd) else 1
        return Step(None, (Cut("weight", Spot(inside, spot.block)),))
    if isinstance(module, _NormBase):
        if spot.dim != 1:
            raise Stuck(f"{node.target} has its entries for another dimension than theirs")
        known = ("weight", "bias", "running_mean", "running_var")
        held = [name for name in known if getattr(module, name) is not None]
        acts = not isinstance(getattr(module, "act", nn.Identity()), nn.Identity)
        cuts = tuple(Cut(name, Spot(0, spot.block)) for name in held)
        return Step(spot, cuts, zero=False, activates=acts)
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return Step(spot, (Cut("weight", Spot(0, spot.block)),), activates=True)
    return None


def _by_word(
    node: fx.Node, module: nn.Module | None, word: str, spot: Spot, before: Sequence[int]
) -> Step:
    """What a function, a method, or a module of torch without tensors does."""
    if word in KEEP_ZERO or word in MOVE_ZERO:
        return Step(spot, zero=word in KEEP_ZERO, activates=True)
    if word in UNCHANGED:
        return Step(spot)
    if word in POOLS:
        told = re.search(r"([123])d$", raw_word(node, module))
        if spot.dim >= (len(before) - int(told[1]) if told else 2):
            raise Stuck(f"{name_of(node, module)} pools over them")
        return Step(spot)
    if word in MEANS:
        return Step(reduced(node, spot, before))
    if word in SHAPES:
        return Step(reshaped(node, word, spot, before))
    if word in ("permute", "transpose"):
        order = order_of(node, word, len(before))
        return Step(spot._replace(dim=order.index(spot.dim)))
    reason = f"it is not known what {name_of(node, module)} does with them"
    raise Stuck(reason) if module is None else Closed(module, reason)


def _arithmetic(node: fx.Node, word: str, spots: Mapping[fx.Node, Spot]) -> Step:
    """Elementwise with a number, with what is equal for all neurons, or with the same neurons."""
    first, second = node.args[:2]
    where = {spots[n] for n in (first, second) if isinstance(n, fx.Node) and n in spots}
    spot = where.pop()
    both = all(isinstance(n, fx.Node) and n in spots for n in (first, second))
    if both and not where and "div" not in word:
        return Step(spot)
    other = second if isinstance(first, fx.Node) and first in spots else first
    alike = True
    if isinstance(other, fx.Node) and isinstance(other.meta.get("val"), Tensor):
        own = second if other is first else first
        assert isinstance(own, fx.Node)
        shape, rank = shape_of(other), len(shape_of(own))
        at = spot.dim - (rank - len(shape))
        alike = len(shape) <= rank and (at < 0 or shape[at] == 1)
    if both or where or not alike or (other is first and "div" in word):
        what = "an addition, as of a shortcut," if word in SUMS else "a product"
        raise Stuck(f"{what} joins them with other values ({name_of(node)})")
    return Step(spot, zero=word in SCALES)


def _cuts(module: nn.Module, weight: Spot) -> tuple[Cut, ...]:
    """Rows of a weight, and the bias that goes with them."""
    cuts = (Cut("weight", weight),)
    bias = getattr(module, "bias", None)
    return cuts if bias is None else (*cuts, Cut("bias", Spot(0, weight.block)))


def _plain(module: nn.Module) -> None:
    """Refuses a layer that does more than its type says."""
    if is_parametrized(module):
        raise Stuck(f"the weight of a {type(module).__name__} is parametrised")
    kind = type(module)
    forwards = {
        vars(c).get("forward") for c in kind.__mro__[1:] if c.__module__.startswith("torch.nn")
    }
    forward = getattr(kind, "forward", None)
    own = kind.__module__.startswith("torch.nn") or forward in forwards
    if not own and kind.__name__ != "Conv2dSame":
        raise Stuck(f"a {kind.__name__} has a forward of its own")


def _channels(node: fx.Node, module: _ConvNd) -> Spot:
    if len(shape_of(node)) != len(module.kernel_size) + 2:
        raise Stuck(f"{node.target} runs without a batch dimension")
    return Spot(1)
