"""Weights of few levels that are trained: the quantiser, and the best step between levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import (
    ParametrizationList,
    is_parametrized,
    register_parametrization,
)

from kdgraph.actions._attention import VirtualAttention
from kdgraph.actions._world import Found, World
from kdgraph.models._lora import is_adapted

LAYERS = (_ConvNd, nn.Linear)
_WINDOWS = 2048


class FakeQuantize(nn.Module):
    """``sign(w) delta min(floor(|w| / delta + 1/2), m)`` with ``m = 2**(bits - 1) - 1``.

    Shin, Boo, Sung 2020 (arXiv 1909.01688). With one bit ``delta`` or ``-delta``, by the sign of w
    (0 counts as positive). The gradient goes straight through, unclipped: that of the result is
    that of w. Held in ``torch.nn.utils.parametrize``, which keeps w as the parameter.

    Args:
        bits: the result has at most ``2**bits - 1`` values, with one bit 2.
        delta: the step between them; a buffer.
    """

    bakes = True  # kdgraph.actions._fold
    delta: Tensor

    def __init__(self, bits: int, delta: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("delta", delta)

    def forward(self, w: Tensor) -> Tensor:
        # the difference is exactly 0; the usual w + (q - w) would not be exactly q
        return quantized(w.detach(), self.delta, self.bits) + (w - w.detach())

    def extra_repr(self) -> str:
        """``bits=2``."""
        return f"bits={self.bits}"


def quantized(w: Tensor, delta: Tensor, bits: int) -> Tensor:
    """The nearest level of each weight; ties go away from 0. Computed in float32 at least."""
    wide = torch.promote_types(w.dtype, torch.float32)
    values, step = w.to(wide), delta.to(wide)
    if bits == 1:
        return torch.where(values < 0, -step, step).to(w.dtype)
    # a layer that is all zero has step 0, and its codes are 0 whatever the divisor
    tiny = torch.finfo(wide).tiny
    codes = (values.abs() / step.clamp_min(tiny) + 0.5).floor().clamp_max(_top(bits))
    return (values.sign() * codes * step).to(w.dtype)


def layers(world: World, patterns: Sequence[str], keep: Sequence[str] | None) -> list[Found]:
    """The layers that are to be quantised, each once.

    Raises:
        ActionError: KD751 where there is none, and for a weight that something else computes,
            that attention scales, that adapters are merged into, or that a layer which stays
            float shares.
    """
    kept = {id(f.module) for f in world.find(keep, inside=True)} if keep else set()
    found: dict[int, Found] = {}
    for f in world.find(patterns, inside=True):
        if id(f.module) not in kept and isinstance(f.module, LAYERS):
            found.setdefault(id(f.module), f)
    if not found:
        world.wrong("no convolution and no linear layer is left to be quantised here")
    every = [m for net in world.nets.values() for m in net.modules()]
    attended = {id(m.conv) for m in every if isinstance(m, VirtualAttention)}
    adapted = {id(part) for m in every if is_adapted(m) for part in m.modules()}
    for f in found.values():
        if id(f.module) in attended:
            message = f"{f.name!r} is attended to, so what is saved would have other levels"
            world.wrong(message, "`keep` it")
        if id(f.module) in adapted:
            message = f"{f.name!r} belongs to a layer with low-rank adapters, so what is saved, "
            world.wrong(f"{message}merged, would have other levels", "`keep` that layer")
        if is_parametrized(f.module) and quantizer(f.module) is None:
            world.wrong(f"the weight of {f.name!r} is computed by something else", "`keep` it")
    weights = {id(shadow(f.module)): f.name for f in found.values()}
    for model, net in world.nets.items():
        for path, module in net.named_modules():
            shared = [weights[id(p)] for p in module._parameters.values() if id(p) in weights]
            if shared and id(module) not in found and not isinstance(module, ParametrizationList):
                message = f"the weight of {shared[0]!r} is also that of {model}.{path}"
                world.wrong(f"{message}, which stays float", "`keep` both, or quantise both")
    return list(found.values())


def fit(layer: nn.Module, bits: int, delta: float) -> None:
    """Quantises the weight of a layer; one that is quantised already changes bits and step."""
    weight = shadow(layer)
    step = torch.tensor(delta, dtype=weight.dtype, device=weight.device)
    if (old := quantizer(layer)) is not None:
        old.bits = bits
        old.delta.copy_(step)
        return
    register_parametrization(layer, "weight", FakeQuantize(bits, step))


def quantizer(layer: nn.Module) -> FakeQuantize | None:
    """What quantises the weight of a layer, if something does."""
    if not is_parametrized(layer, "weight"):
        return None
    found = layer.get_submodule("parametrizations.weight.0")
    return found if isinstance(found, FakeQuantize) else None


def shadow(layer: nn.Module) -> nn.Parameter:
    """The trained weight of a layer, of which the quantised one is computed."""
    path = "weight" if quantizer(layer) is None else "parametrizations.weight.original"
    return layer.get_parameter(path)


def best_step(w: Tensor, bits: int) -> float:
    """The delta with the least ``||w - Q(w)||``; 0 for a weight that is all zero.

    The search is exact. Codes change only where delta passes some ``|w_i| / (k - 1/2)``; between
    two such places they are constant, the best delta for codes c is ``<|w|, c> / <c, c>``, and its
    squared error is ``<w, w> - <|w|, c>**2 / <c, c>``. So all it takes is the largest
    ``<|w|, c>**2 / <c, c>``. Windows of delta in which the error cannot be the least, by how fast
    it can change, are left out.
    """
    a = w.detach().double().cpu().abs().flatten().sort().values
    if bits == 1:
        return float(a.mean())
    a = a[a > 0]
    if not len(a):
        return 0.0
    best = (0.0, 0.0)
    sums = torch.cat([a.flip(0).cumsum(0).flip(0), a.new_zeros(1)])
    for low, high in _windows(a, sums, bits):
        best = max(best, _best_within(a, sums, bits, low, high))
    return best[1]


def _top(bits: int) -> int:
    """The largest code."""
    return int(2 ** (bits - 1) - 1)


def _products(a: Tensor, sums: Tensor, bits: int, delta: Tensor) -> tuple[Tensor, Tensor]:
    """``<|w|, c>`` and ``<c, c>`` for the codes at each delta.

    Args:
        a: absolute values, ascending.
        sums: of ``a`` from each place to the end.
        bits: as above.
        delta: [D].
    """
    k = torch.arange(1, _top(bits) + 1, dtype=a.dtype)
    first = torch.searchsorted(a, (k - 0.5) * delta[:, None])  # with code k or more
    return sums[first].sum(1), ((len(a) - first) * (2 * k - 1)).sum(1)


def _windows(a: Tensor, sums: Tensor, bits: int) -> list[tuple[float, float]]:
    """Where the best delta can be."""
    total, top = float(a.square().sum()), _top(bits)
    high = 2 * float(a[-1])  # from here on all codes are 0
    # below this, Q(w) is so short that w is further from it than from another Q(w) in any case
    product, square = _products(a, sums, bits, a.new_tensor([float(a[-1]) / top]))
    error = max(total - float(product**2 / square), 0.0)
    low = (total**0.5 - error**0.5) / (top * len(a) ** 0.5) * (1 - 1e-9)
    grid = torch.logspace(0, 1, _WINDOWS, base=high / low, dtype=a.dtype) * low
    grid[-1] = high
    found = _possible(a, sums, bits, grid)
    finer = [torch.linspace(*window, _WINDOWS // len(found) + 2, dtype=a.dtype) for window in found]
    return _possible(a, sums, bits, torch.cat(finer))


def _possible(a: Tensor, sums: Tensor, bits: int, grid: Tensor) -> list[tuple[float, float]]:
    """The windows of an ascending grid in which the error may be the least; neighbours joined."""
    total = float(a.square().sum())
    product, square = _products(a, sums, bits, grid)
    error = (total - 2 * grid * product + grid.square() * square).clamp_min(0).sqrt()
    # the distance of w from its nearest levels changes by at most ||c|| for a change of delta by 1
    reach = square[:-1].double().sqrt() * grid.diff()
    bound = (error[1:] + error[:-1] - reach) / 2
    possible = (bound <= error.min() + 1e-7 * total**0.5) & (grid.diff() > 0)  # 1e-7: rounding
    found: list[tuple[float, float]] = []
    for at in possible.nonzero().flatten().tolist():
        if found and found[-1][1] == float(grid[at]):
            found[-1] = (found[-1][0], float(grid[at + 1]))
        else:
            found.append((float(grid[at]), float(grid[at + 1])))
    return found


def _best_within(
    a: Tensor, sums: Tensor, bits: int, low: float, high: float
) -> tuple[float, float]:
    """The largest ``<|w|, c>**2 / <c, c>`` of codes between two deltas, and the best delta."""
    product, square = _products(a, sums, bits, a.new_tensor([high]))
    values, places, rises = [product.new_zeros(1)], [a.new_tensor([high])], [square.new_zeros(1)]
    for k in range(1, _top(bits) + 1):
        edges = torch.searchsorted(a, a.new_tensor([(k - 0.5) * low, (k - 0.5) * high]))
        here = a[edges[0] : edges[1]]
        values.append(here)
        places.append(here / (k - 0.5))
        rises.append(edges.new_full((len(here),), 2 * k - 1))
    order = torch.cat(places).argsort(descending=True)
    products = product + torch.cat(values)[order].cumsum(0)
    squares = square + torch.cat(rises)[order].cumsum(0)
    scores = torch.where(squares > 0, products.square() / squares.clamp_min(1), 0)
    at = int(scores.argmax())
    return float(scores[at]), float(products[at] / squares[at].clamp_min(1))
