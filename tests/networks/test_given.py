"""Models that are handed over to ``compile``: plain ones, whole, each by a name of the spec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import kdgraph
from kdgraph.runtime.module import DistillModule
from kdgraph.runtime.sharding import shard

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "given",
    "batch": {"x": {"shape": ["B", 6]}},
    "models": {
        "teacher": {"taps": {"logits": "output"}},
        "student": {"taps": {"logits": "output"}},
    },
    "losses": {
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"}
    },
}


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def compiled(**models: Any) -> DistillModule:
    plain = {name: nn.Linear(6, 4) for name in SPEC["models"]}
    return kdgraph.compile(SPEC, models=plain | models)


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (DistributedDataParallel, r"by DistributedDataParallel\n.* its `.module`"),
        (nn.DataParallel, r"by DataParallel\n.* its `.module`"),
        (torch.compile, r"by torch.compile\n.* its `._orig_mod`"),
    ],
)
@pytest.mark.usefixtures("group")
def test_wrapped_models_are_refused(wrap: Callable[..., nn.Module], told: str) -> None:
    with pytest.raises(kdgraph.KDGraphError, match=rf"KD409\]: model 'student' is wrapped {told}"):
        compiled(student=wrap(nn.Linear(6, 4)))


@pytest.mark.parametrize("name", ["teacher", "student"])
@pytest.mark.usefixtures("group")
def test_models_in_shards_are_refused(name: str) -> None:
    net = nn.Sequential(nn.Linear(6, 4))
    fully_shard(net[0])
    with pytest.raises(kdgraph.KDGraphError, match=rf"KD409\]: model '{name}' is in shards"):
        compiled(**{name: net})


@pytest.mark.usefixtures("group")
def test_a_step_is_sharded_once() -> None:
    step = shard(compiled())
    with pytest.raises(kdgraph.KDGraphError, match=r"KD735\]: the step is in shards"):
        shard(step)
    assert step(x=torch.ones(2, 6)).loss.isfinite()


class Scaled(nn.Linear):
    """Its scale is a parameter without dimensions, as that of CLIP."""

    def __init__(self) -> None:
        super().__init__(6, 4)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.scale


@pytest.mark.usefixtures("group")
def test_a_single_number_is_not_sharded() -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"KD735\]: 'models.student.scale' is"):
        shard(compiled(student=Scaled()))
    step = compiled(teacher=nn.Sequential(Scaled()))
    plain = step(x=torch.ones(2, 6)).loss.item()
    teacher = shard(step).networks["teacher"]
    assert step(x=torch.ones(2, 6)).loss.item() == plain
    assert [n for n, p in teacher.named_parameters() if hasattr(p, "full_tensor")] == [
        "0.weight", "0.bias",
    ]  # fmt: skip


def test_shards_need_processes() -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"KD735\]: there are no processes"):
        shard(compiled())


def test_other_names_are_refused() -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"no model 'studnet'\n.*did you mean 'student'"):
        compiled(studnet=nn.Linear(6, 4))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"must be an nn\.Module, not str"):
        compiled(student="resnet18")
