"""One of several processes that share a batch: ``python -m kdgraph.verify._worker DIR RANK``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from kdgraph.verify._compare import Result, kept, losses_of
from kdgraph.verify._rows import part
from kdgraph.verify._subject import Subject, exact, networks
from kdgraph.verify.base import one_sentence

JOBS, FOUND, FAILED = "jobs.pt", "found.pt", "failed-{}.json"
_PATIENCE = timedelta(minutes=30)  # of a process for the slowest other one


@dataclass(frozen=True)
class Job:
    """What all processes do together.

    Attributes:
        subject: less its networks, whose code may not travel.
        weights: of them, by model.
        splits: how many rows each process has, once for each step.
    """

    subject: Subject
    weights: Mapping[str, Mapping[str, Tensor]]
    splits: Sequence[Sequence[int]]

    @classmethod
    def of(cls, subject: Subject, splits: Sequence[Sequence[int]]) -> Job:
        """The job of a subject."""
        weights = {name: net.state_dict() for name, net in subject.networks.items()}
        return cls(replace(subject, networks={}), weights, splits)


def run(job: Job) -> list[list[Result]]:
    """For each split what each process has: losses of its own, gradients averaged over all."""
    subject = replace(job.subject, networks=networks(job.subject.spec, job.subject.trust))
    for name, net in subject.networks.items():
        net.load_state_dict(job.weights[name])
    return [_split(subject, sizes) for sizes in job.splits]


def _split(subject: Subject, sizes: Sequence[int]) -> list[Result]:
    spec = subject.calm()[0]
    step = subject.step(spec, still=True)
    own = part(spec, subject.batch(), sizes, distributed.get_rank())
    out = step(**own)
    out.loss.backward()
    grads = _averaged(step)
    every: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, losses_of(out))
    return [Result(losses, grads) for losses in every]


def _averaged(step: nn.Module) -> dict[str, Tensor]:
    """Gradients as DDP would have them."""
    found = {}
    for name, parameter in step.named_parameters():
        if not parameter.requires_grad:
            continue
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        distributed.all_reduce(grad)
        found[name] = kept(grad / distributed.get_world_size())
    return found


def main(folder: Path, rank: int) -> None:
    """Runs the jobs of a folder; the first process writes what was found."""
    # of no one else: written by the process that has started this one, where only its user can
    jobs: list[Job] = torch.load(folder / JOBS, weights_only=False)
    world, device = jobs[0].subject.ranks, jobs[0].subject.device
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    if device.type == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{folder / 'meet'}", rank=rank, world_size=world, timeout=_PATIENCE,
    )  # fmt: skip
    with exact():
        found = [run(replace(job, subject=replace(job.subject, device=device))) for job in jobs]
    if rank == 0:
        torch.save(found, folder / FOUND)
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    where, number = Path(sys.argv[1]), int(sys.argv[2])
    try:
        main(where, number)
    except Exception as error:
        said = {"said": one_sentence(error)}
        (where / FAILED.format(number)).write_text(json.dumps(said), encoding="utf-8")
        os._exit(1)  # others may be waiting for this one
