"""The same few training steps in every wrapper that shares a batch between processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import kdgraph
from kdgraph.runtime.sharding import shard

B, K = 12, 4
SIZES = {1: [12], 2: [7, 5], 4: [4, 4, 3, 1]}
EVEN = {1: [12], 2: [6, 6], 4: [3, 3, 3, 3]}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, K)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "wrapped",
    "batch": {
        "x": {"shape": ["B", 6]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": K},
    },
    "models": {
        "teacher": {"taps": {"mid": "blocks.1", "logits": "output"}},
        "student": {"taps": {"mid": "blocks.0", "logits": "output"}},
    },
    "links": {"mid": {"student": "student.mid", "teacher": "teacher.mid", "adapter": "linear"}},
    "losses": {
        "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "soft": {
            "use": "soft_target",
            "student": "student.logits",
            "teacher": "teacher.logits",
            "weight": {"linear": [2.0, 1.0], "iterations": [0, 4]},
        },
        "hint": {"use": "hint", "link": "mid"},
        "relation": {"use": "relation", "link": "mid"},
    },
}


def nets() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {"teacher": Net(8, 3), "student": Net(6, 2)}


def compiled(given: dict[str, nn.Module] | None = None, **changes: Any) -> kdgraph.DistillModule:
    given = given or nets()
    torch.manual_seed(2)
    return kdgraph.compile(SPEC | changes, models=given)


def batches(steps: int = 3) -> Iterator[dict[str, Tensor]]:
    torch.manual_seed(3)
    for _ in range(steps):
        label = torch.randint(0, K, (B,))
        label[: B // 2] = -100 if _ == 1 else label[: B // 2]
        yield {"x": torch.randn(B, 6), "label": label}


def place() -> tuple[int, int]:
    if distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def share(whole: dict[str, Tensor], even: bool) -> dict[str, Tensor]:
    rank, world = place()
    return {n: v.split((EVEN if even else SIZES)[world])[rank] for n, v in whole.items()}


def full(step: nn.Module) -> dict[str, Tensor]:
    """The trained parameters, whole, by names that no wrapper has changed."""
    found = {}
    for name, value in step.state_dict().items():
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        for wrapper in ("_checkpoint_wrapped_module.", "_orig_mod.", "module."):
            name = name.replace(wrapper, "")
        if "extra_state" not in name:
            found[name] = whole.detach().clone()
    return found


def trained(
    step: kdgraph.DistillModule,
    wrapped: nn.Module,
    *,
    even: bool = False,
    autocast: Any = None,
    scaler: Any = None,
) -> dict[str, Any]:
    """Three steps of SGD; the losses and the parameters afterwards."""
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for at, whole in enumerate(batches()):
        step.set_progress(iteration=at)
        with autocast or nullcontext():
            out = wrapped(**share(whole, even))
        optimizer.zero_grad()
        (scaler.scale(out.loss) if scaler else out.loss).backward()
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        losses.append(out.loss.item())
    return {"losses": losses, "weights": full(wrapped)}


def ddp(step: nn.Module) -> nn.Module:
    return DistributedDataParallel(step) if place()[1] > 1 else step


def plain() -> dict[str, Any]:
    step = compiled()
    return trained(step, ddp(step))


def accumulated() -> dict[str, Any]:
    """Two micro-batches for each step; gradients travel with the second only.

    Without the loss that compares samples, which sees one micro-batch at a time.
    """
    step = compiled(losses={n: e for n, e in SPEC["losses"].items() if n != "relation"})
    step.share()
    wrapped = ddp(step)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    losses = []
    for at, whole in enumerate(batches()):
        step.set_progress(iteration=at)
        mine = share(whole, even=True)
        cut = [max(len(mine["x"]) // 3, 1), len(mine["x"]) - max(len(mine["x"]) // 3, 1)]
        parts = [{n: v.split(cut)[i] for n, v in mine.items()} for i in (0, 1)]
        optimizer.zero_grad()
        value = 0.0
        with step.window(parts):
            for last, part in enumerate(parts):
                quiet = isinstance(wrapped, DistributedDataParallel) and not last
                with wrapped.no_sync() if quiet else nullcontext():
                    loss = wrapped(**part).loss
                    loss.backward()
                value += loss.item()
        optimizer.step()
        losses.append(value)
    return {"losses": losses, "weights": full(wrapped)}


def half(dtype: torch.dtype) -> dict[str, Any]:
    step = compiled()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8) if dtype is torch.float16 else None
    return trained(step, ddp(step), autocast=torch.autocast("cpu", dtype), scaler=scaler)


def checkpointed() -> dict[str, Any]:
    models = nets()
    apply_activation_checkpointing(models["student"], check_fn=lambda m: isinstance(m, Block))
    step = compiled(models)
    return trained(step, ddp(step))


def compiled_inside() -> dict[str, Any]:
    step = compiled()
    inside = torch.compile(step, backend="aot_eager", fullgraph=True)
    return trained(step, ddp(inside), even=True)


def compiled_outside() -> dict[str, Any]:
    step = compiled()
    return trained(step, torch.compile(ddp(step), backend="aot_eager"), even=True)


def sharded(**options: Any) -> dict[str, Any]:
    """FSDP2 over the blocks of both models."""
    step = compiled()
    shard(step, init_device_mesh("cpu", (place()[1],)), **options)
    found = trained(step, step)
    frozen = step.networks["teacher"].named_parameters()
    return {**found, "gathered": [n for n, p in frozen if not hasattr(p, "full_tensor")]}


def snapshots() -> dict[str, Any]:
    """A student that also learns from itself as it was a step before, which is sharded too."""
    past = {"snapshot_of": "student", "taps": {"logits": "output"}}
    edge = {"use": "soft_target", "student": "student.logits", "teacher": "past.logits"}
    step = compiled(models=SPEC["models"] | {"past": past}, losses=SPEC["losses"] | {"self": edge})
    if place()[1] > 1:
        shard(step, init_device_mesh("cpu", (place()[1],)))
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    losses = []
    for whole in batches(4):
        loss = step(**share(whole, even=False)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step.snapshot()
        step.state_dict()  # lets go of what is gathered
        losses.append(loss.item())
    return {"losses": losses, "weights": full(step)}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "ddp": plain,
    "no_sync": accumulated,
    "bf16": lambda: half(torch.bfloat16),
    "fp16": lambda: half(torch.float16),
    "checkpointed": checkpointed,
    "compiled_inside": compiled_inside,
    "compiled_outside": compiled_outside,
    "fsdp2": sharded,
    "snapshots": snapshots,
}


AMONG_FOUR = ("ddp", "no_sync", "fsdp2")  # compilers and precisions see no more than two ranks


def run() -> dict[str, Any]:
    world = place()[1]
    names = [name for name in CASES if world > 1 or name != "fsdp2"]
    return {name: CASES[name]() for name in (AMONG_FOUR if world == 4 else names)}
