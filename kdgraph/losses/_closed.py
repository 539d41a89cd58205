"""Logits as closed forms see them: one softmax per tensor and temperature, one gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from kdgraph.losses.base import per_sample
from kdgraph.spec.shapes import class_dim


class Logits:
    """Logits [B, K], [B, L, K] or [B, K, H, W] as ``rows`` [N, K], and a gradient to add to.

    Attributes:
        z: one row per sample, token or pixel, classes last.
        shape: the shape of the rows: [B], [B, L] or [B, H, W].
        grad: the gradient so far, [N, K], for ``add`` to add to.
    """

    grad: Tensor

    def __init__(self, logits: Tensor) -> None:
        self._dim = class_dim(tuple(logits.shape))
        last = logits.movedim(self._dim, -1)
        self.shape = last.shape[:-1]
        self.z = last.reshape(-1, last.shape[-1])
        self._views: dict[float | int, View] = {}
        self._kept: list[Tensor] = []  # an id is a key only as long as its tensor lives

    def at(self, tau: Tensor | float) -> View:
        """The logits at a temperature: a number, a 0-dim tensor or one value per sample [B]."""
        if isinstance(tau, Tensor):
            self._kept.append(tau)
        key = id(tau) if isinstance(tau, Tensor) else float(tau)
        if key not in self._views:
            self._views[key] = View(self, self.by_row(tau))
        return self._views[key]

    def release(self) -> None:
        """Lets go of the values at every temperature."""
        for view in self._views.values():
            view.release()
        self._views, self._kept = {}, []

    def by_row(self, value: Tensor | float) -> Tensor | float:
        """A number, or one value per sample [B] as one per row [N]."""
        if not isinstance(value, Tensor) or value.dim() == 0:
            return value
        like = self.z.new_empty(()).expand(self.shape)
        aligned = per_sample(value, like)
        assert isinstance(aligned, Tensor)
        return aligned.expand(self.shape).reshape(-1)

    def in_rows(self, like: Tensor) -> Tensor:
        """A tensor of the shape of the logits, as [N, K]."""
        return like.movedim(self._dim, -1).reshape(self.z.shape)

    def add(self, direction: Tensor, by: Tensor | float) -> None:
        """Adds ``by * direction`` to the gradient; ``by`` is one number, or one per row [N]."""
        if isinstance(by, Tensor):
            self.grad.addcmul_(direction, by[:, None] if by.dim() else by)
        else:
            self.grad.add_(direction, alpha=by)

    def add_at(self, classes: Tensor, values: Tensor) -> None:
        """Adds one value [N] per row to the gradient, at the class given for it, [N, 1]."""
        self.grad.scatter_add_(1, classes, values[:, None])

    def gradient(self) -> Tensor:
        """The gradient in the shape of the logits."""
        return self.grad.reshape(*self.shape, self.grad.shape[1]).movedim(-1, self._dim)


class View:
    """Logits at one temperature, ``u = z / tau``: [N, K], each value computed once."""

    def __init__(self, logits: Logits, tau: Tensor | float) -> None:
        self.logits = logits
        self._one = isinstance(tau, float | int) and tau == 1
        self._tau = tau[:, None] if isinstance(tau, Tensor) and tau.dim() else tau
        self._inverse = 1.0 if self._one else 1 / tau
        self._log: Tensor | None = None
        self._prob: Tensor | None = None

    @property
    def log(self) -> Tensor:
        """``log softmax(u)``."""
        if self._log is None:
            z = self.logits.z
            self._log = (z if self._one else z / self._tau).log_softmax(1)
        return self._log

    @property
    def prob(self) -> Tensor:
        """``softmax(u)``, from its logarithm, so that both cost one softmax."""
        if self._prob is None:
            self._prob = self.log.exp()
        return self._prob

    def add(self, direction: Tensor, by: Tensor | float) -> None:
        """Adds ``by * direction`` to the gradient with respect to u; see ``Logits.add``."""
        self.logits.add(direction, by if self._one else by * self._inverse)

    def add_prob(self, prob: Tensor, direction: Tensor, by: Tensor | float) -> None:
        """The same with respect to the probabilities ``prob``."""
        aten = torch.ops.aten
        self.add(aten._softmax_backward_data(direction, prob, 1, prob.dtype), by)

    def release(self) -> None:
        """Lets go of all values; ``add`` still works."""
        self._log = self._prob = None
