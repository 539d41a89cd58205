"""Nodes of a graph by what they do: one word for a function, a method and a module of torch."""

from __future__ import annotations

import re

from torch import fx, nn


def _all(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Small letters, without underscores and the 2d at the end.

# elementwise, one argument: 0 stays 0, or may not
KEEP_ZERO = _all(
    """relu relu6 leakyrelu elu celu selu gelu silu mish hardswish tanh softsign tanhshrink
    softshrink hardshrink rrelu prelu"""
)
MOVE_ZERO = _all("sigmoid hardsigmoid softplus logsigmoid hardtanh threshold clamp exp square")
# the same values, at least in eval mode
UNCHANGED = _all(
    """identity dropout alphadropout featurealphadropout featuredropout contiguous clone detach to
    float double half bfloat16 keep"""
)
# over the dimensions behind the channels
POOLS = _all(
    """avgpool maxpool lppool adaptiveavgpool adaptivemaxpool upsample upsamplingnearest
    upsamplingbilinear interpolate zeropad"""
)
# over dimensions that are named
MEANS = _all("mean sum amax amin")
# the values in the same order, in another shape
SHAPES = _all("flatten view reshape squeeze unsqueeze")
# of two arguments
SCALES = _all("mul imul multiply div truediv itruediv truedivide")
SUMS = _all("add iadd sub isub subtract")
# of many
JOINS = _all("cat concat concatenate stack hstack vstack")
# no tensor comes out
SIZES = _all("size dim ndimension")

_KNOWN_CODE = ("torch", "_operator", "operator", "kdgraph.capture")


def raw_word(node: fx.Node, module: nn.Module | None) -> str:
    """The name as it is written: ``AdaptiveAvgPool2d``; empty for what is not torch's own."""
    if module is not None:
        return type(module).__name__ if type(module).__module__.startswith("torch.nn") else ""
    if isinstance(node.target, str):
        return node.target if node.op == "call_method" else ""
    known = str(getattr(node.target, "__module__", "")).startswith(_KNOWN_CODE)
    return str(getattr(node.target, "__name__", "")) if known or node.target is getattr else ""


def word_of(node: fx.Node, module: nn.Module | None) -> str:
    """``AdaptiveAvgPool2d`` and ``adaptive_avg_pool2d`` as ``adaptiveavgpool``."""
    return re.sub(r"[123]d$", "", raw_word(node, module)).replace("_", "").lower()


def name_of(node: fx.Node, module: nn.Module | None = None) -> str:
    """A node as messages call it: ``features.3 (ReLU)``, or ``add in layer1.0``."""
    if module is not None:
        return f"{node.target} ({type(module).__name__})"
    where = node.meta.get("kd_path")
    word = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return f"{word} in {where}" if where else str(word)
