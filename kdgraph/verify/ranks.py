"""1 process = N processes that share its batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from kdgraph.verify._compare import Result, stepped, worst
from kdgraph.verify._processes import together
from kdgraph.verify._rows import rows_of, splits, told
from kdgraph.verify._subject import Subject
from kdgraph.verify._worker import Job
from kdgraph.verify.base import Finding, register_check


@register_check("ranks")
def run(subject: Subject) -> Finding:
    """Evenly and unevenly: each edge's loss on every process, and gradients averaged as by DDP."""
    subject, notes = _here(subject)
    job = job_of(subject)
    (found,) = together([job])
    return finding(subject, job.splits, found, notes)


def job_of(subject: Subject) -> Job:
    """What the processes do."""
    return Job.of(subject, splits(rows_of(subject.spec, subject.batches[0]), subject.ranks))


def finding(
    subject: Subject,
    sizes: Sequence[Sequence[int]],
    found: Sequence[Sequence[Result]],
    notes: Sequence[str] = (),
) -> Finding:
    """One process beside what several have found."""
    spec, calmed = subject.calm()
    alone = stepped(subject.step(spec, still=True), subject.batch())
    gaps = [result.gaps(alone) for results in found for result in results]
    own = [name for name, loss in spec.losses.items() if loss.scope == "rank"]
    kept = [f"scope: rank, so on its own rows in each process: {', '.join(own)}"] if own else []
    rows = sum(sizes[0])
    return Finding(
        f"1 process with {rows} rows = {subject.ranks} with {' and with '.join(map(told, sizes))}",
        worst(*gaps), subject.rounding, (*notes, *calmed, *kept),
    )  # fmt: skip


def _here(subject: Subject) -> tuple[Subject, list[str]]:
    """The subject on a device of which each process can have one."""
    if subject.device.type == "cpu":
        return subject, []
    if subject.device.type == "cuda" and torch.cuda.device_count() >= subject.ranks:
        return subject, []
    note = f"on the CPU, by gloo: there are not {subject.ranks} devices {subject.device.type}"
    return replace(subject, device=torch.device("cpu")), [note]
