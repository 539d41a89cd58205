"""torchdistill's side, set up through its configurations and registries as its users do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchdistill.core.distillation import DistillationBox
from torchdistill.core.interfaces.registry import register_forward_proc_func
from torchdistill.losses.registry import register_low_level_loss
from torchdistill.models.registry import (
    register_adaptation_module,
    register_auxiliary_model_wrapper,
)
from torchdistill.models.wrapper import AuxiliaryModelWrapper

Config = dict[str, Any]

LOGITS = {
    "student_module_path": ".",
    "student_module_io": "output",
    "teacher_module_path": ".",
    "teacher_module_io": "output",
}


def box(
    teacher: nn.Module,
    student: nn.Module,
    terms: Mapping[str, Config],
    *,
    teacher_config: Config | None = None,
    student_config: Config | None = None,
) -> DistillationBox:
    """A box over a frozen teacher in eval mode, which torchdistill leaves to its user."""
    device = next(student.parameters()).device
    config = {
        "num_epochs": 1,
        "teacher": {
            "forward_proc": "forward_batch_only",
            "requires_grad": False,
            **(teacher_config or {}),
        },
        "student": {"forward_proc": "forward_batch_only", **(student_config or {})},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": dict(terms)}},
    }
    made = DistillationBox(teacher.eval(), student, {}, config, device, None, False, 1.0)
    made.teacher_model.eval()
    made.student_model.train()
    return made


def term(key: str, weight: float = 1.0, **kwargs: Any) -> Config:
    """A loss that reads logits from the outputs of both models."""
    return {"criterion": {"key": key, "kwargs": {**LOGITS, **kwargs}}, "weight": weight}


def wrapped(
    key: str, student: str, teacher: str | None, *, weight: float = 1.0, **kwargs: Any
) -> Config:
    """A plain loss between what the hooks caught at two paths, or the labels."""
    target = {"is_from_teacher": True, "module_path": teacher, "io": "output"}
    reads = {
        "input": {"is_from_teacher": False, "module_path": student, "io": "output"},
        "target": target if teacher else {"uses_label": True},
    }
    return {
        "criterion": {"key": key, "kwargs": kwargs},
        "criterion_wrapper": {"key": "SimpleLossWrapper", "kwargs": reads},
        "weight": weight,
    }


def hooks(*paths: str) -> Config:
    """Catch the outputs of these modules."""
    return {"forward_hook": {"input": [], "output": list(paths)}}


def with_regressor(path: str, regressor: nn.Module) -> Config:
    """A student whose output at ``path`` goes through a trained module, caught there."""
    kwargs = {"path": path, "regressor": regressor}
    return {
        "auxiliary_model_wrapper": {"key": "Regressor", "kwargs": kwargs},
        **hooks(f"model.{path}", "regressor"),
    }


@register_auxiliary_model_wrapper
class Regressor(AuxiliaryModelWrapper):  # type: ignore[misc]  # untyped there
    """The wrapper that its documentation has users write for a method with an adapter."""

    def __init__(
        self, path: str, regressor: nn.Module, student_model: nn.Module, **_: object
    ) -> None:
        super().__init__()
        self.model = student_model
        self.regressor = regressor
        self.path = f"model.{path}"

    def forward(self, x: Tensor) -> Tensor:
        """The student's own output."""
        output: Tensor = self.model(x)
        return output

    def secondary_forward(self, io_dict: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The regressor; its hook keeps the result."""
        self.regressor(io_dict[self.path]["output"])


@register_adaptation_module  # type: ignore[untyped-decorator]  # untyped there
def given(module: nn.Module) -> nn.Module:
    """An adaptation that exists already, so that it starts from kdgraph's weights."""
    return module


@register_forward_proc_func  # type: ignore[untyped-decorator]  # untyped there
def forward_student_entry(model: nn.Module, batch: Mapping[str, Tensor], *_: Any) -> Tensor:
    """The student's part of a batch that holds tensors of both."""
    output: Tensor = model(batch["student"])
    return output


@register_forward_proc_func  # type: ignore[untyped-decorator]  # untyped there
def forward_teacher_entry(model: nn.Module, batch: Mapping[str, Tensor], *_: Any) -> Tensor:
    """The teacher's part."""
    output: Tensor = model(batch["teacher"])
    return output


@register_low_level_loss
class ReverseKLLoss(nn.Module):
    """``KL(softmax(z_s) || softmax(z_t))``; torchdistill has none."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over the rows, of logits [B, K]."""
        log_q, log_p = student.log_softmax(1), teacher.log_softmax(1)
        return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


@register_low_level_loss
class SpatialCorrelationLoss(nn.Module):
    """Mean squared difference of the HW x HW cosine similarities; torchdistill has none."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over the batch, of maps [B, C, H, W]."""
        return F.mse_loss(self.similarities(student), self.similarities(teacher))

    def similarities(self, maps: Tensor) -> Tensor:
        """[B, HW, HW]."""
        units = F.normalize(maps.flatten(2), dim=1)
        return torch.bmm(units.mT, units)
