"""Agreement: how alike two tensors point, sample by sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, rank, show

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Agreement(Signal):
    """``cos(of, to)`` over classes or channels: 1 where two tensors point the same way, 0 across.

    Of the logits of one teacher for two views of a sample, raw and without a temperature, it is
    ``c - 1`` of the weights of Li, Shao, Qiu, Song 2024 (10.1016/j.neucom.2024.127516). Vectors
    [B, D] give [B], tokens [B, L, D] [B, L] and maps [B, C, H, W] [B, H, W]. A zero vector has
    cosine 0 with every other. The value is a constant for autograd unless ``attached: true``.
    """

    use: Literal["agreement"] = "agreement"
    of: Ref
    to: Ref
    attached: bool = False

    def shape(self, *, of: Shape, to: Shape) -> Shape:
        rank("agreement needs vectors, tokens or maps: they", of, 2, 3, 4)
        if of != to:
            raise ShapeMismatch(f"{self.of} is {show(of)}, but {self.to} is {show(to)}")
        at = class_dim(of)
        return of[:at] + of[at + 1 :]

    def forward(self, *, of: Tensor, to: Tensor) -> Tensor:
        from torch.nn.functional import cosine_similarity

        from kdgraph.signals._module import wide

        a, b = wide(of), wide(to)
        if not self.attached:
            a, b = a.detach(), b.detach()
        dim = class_dim(tuple(of.shape))
        # the size of a vector does not count, but lengths below 1e-8 would be cut there
        a, b = (x / _size(x, dim) for x in (a, b))
        return cosine_similarity(a, b, dim)


def _size(x: Tensor, dim: int) -> Tensor:
    """The largest magnitude of each vector, 1 where all are 0."""
    size = x.detach().abs().amax(dim, keepdim=True)
    return size.where(size > 0, 1)
