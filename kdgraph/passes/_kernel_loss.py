"""The modules of loss edges that a kernel computes where it can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdgraph.kernels.base import Kernel, transformed
from kdgraph.kernels.softmax_rows import joined
from kdgraph.losses._module import LossModule, widen
from kdgraph.losses.base import RowLoss
from kdgraph.losses.cross_entropy import CrossEntropy

Value = Tensor | tuple[Tensor, Tensor]
_FOR_ROWS = ("mask", "row_weight")  # what comes in only when rows are reduced


class KernelLoss(nn.Module):
    """Computes a loss by a kernel, or by its own module where the tensors are none for it.

    Which of the two is decided by each call: a step that was compiled where there is a GPU also
    runs on the CPU, in float64, and under the transforms of ``torch.func``.
    """

    def __init__(self, name: str, kernel: Kernel, plain: LossModule) -> None:
        super().__init__()
        self.name = name
        self.kernel = kernel
        self.plain = plain

    def forward(self, **inputs: Any) -> Value:
        value: Value
        if transformed() or not self.kernel.takes(**inputs):
            value = self.plain(**inputs)
            return value
        with torch.autocast(inputs["student"].device.type, enabled=False):
            value = self.kernel.run(self.plain.loss, **_without_rows(self.kernel, inputs))
            return _reduced(self.plain, value, inputs)

    def extra_repr(self) -> str:
        return self.name


class JoinedLosses(nn.Module):
    """A divergence and the cross-entropy of the same student logits, in one launch.

    Attributes:
        name: of the kernel.
        names: the edges, in the order of the values.
        plain: their modules, in the same order.
        divergence: which of them is the divergence.
    """

    def __init__(
        self, name: str, kernel: Kernel, edges: Mapping[str, LossModule], divergence: str
    ) -> None:
        super().__init__()
        self.name = name
        self.kernel = kernel
        self.names = tuple(edges)
        self.plain = nn.ModuleList(edges.values())
        self.divergence = self.names.index(divergence)

    def forward(self, inputs: Mapping[str, Mapping[str, Any]]) -> tuple[Value, ...]:
        """The value of each edge, from the arguments of its module by name."""
        given = [inputs[name] for name in self.names]
        of_teacher, of_labels = given[self.divergence], given[1 - self.divergence]
        if transformed() or not self.kernel.takes(**of_teacher):
            return tuple(edge(**g) for edge, g in zip(self.plain, given, strict=True))
        divergence, labels = (self.plain[i] for i in (self.divergence, 1 - self.divergence))
        assert isinstance(divergence, LossModule)
        assert isinstance(labels, LossModule)
        assert isinstance(labels.loss, CrossEntropy)
        with torch.autocast(of_teacher["student"].device.type, enabled=False):
            rows, labelled = joined(
                divergence.loss,
                labels.loss,
                target=of_labels["target"],
                **_without_rows(self.kernel, of_teacher),
            )
            found = [
                _reduced(divergence, rows, of_teacher),
                _reduced(labels, labelled, of_labels),
            ]
        return tuple(found if self.divergence == 0 else reversed(found))

    def extra_repr(self) -> str:
        return ", ".join(self.names)


def _without_rows(kernel: Kernel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a kernel reads; all but its sides widened, as a loss module widens all."""
    return {
        field: value if field in kernel.sides else widen(value)
        for field, value in inputs.items()
        if field not in _FOR_ROWS
    }


def _reduced(module: LossModule, value: Value, inputs: Mapping[str, Any]) -> Value:
    """What the loss makes of its rows; the value itself where it has none."""
    loss = module.loss
    if not isinstance(loss, RowLoss):
        return value
    assert isinstance(value, Tensor)
    return loss.reduced(value, **inputs)
