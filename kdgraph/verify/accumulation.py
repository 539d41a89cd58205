"""1 step of B rows = K small batches in ``step.window``, whose gradients are accumulated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdgraph.errors import InputError
from kdgraph.spec.language import Spec
from kdgraph.verify._calm import by_row
from kdgraph.verify._compare import Result, gradients, losses_of, stepped, worst
from kdgraph.verify._rows import part, rows_of, splits, told
from kdgraph.verify._subject import Subject
from kdgraph.verify.base import Finding, NotApplicable, one_sentence, register_check


@register_check("accumulation")
def run(subject: Subject) -> Finding:
    """Evenly, and unevenly for a trainer that divides losses by the number of batches."""
    calm, notes = subject.calm()
    spec, apart = by_row(calm)
    if not spec.losses:
        raise NotApplicable(apart[0])
    batch = subject.batch()
    sizes = splits(rows_of(spec, batch), subject.micro)
    whole = stepped(subject.step(spec, still=True), batch)
    gaps = []
    for each, averaged in zip(sizes, (False, True), strict=True):
        micro = [part(spec, batch, each, number) for number in range(len(each))]
        gaps.append(_accumulated(subject, spec, micro, averaged).gaps(whole))
    return Finding(
        f"1 batch of {sum(sizes[0])} rows = {' and '.join(map(told, sizes))}",
        worst(*gaps), subject.rounding, (*notes, *apart),
    )  # fmt: skip


def _accumulated(
    subject: Subject, spec: Spec, batches: Sequence[dict[str, Tensor]], averaged: bool
) -> Result:
    """What small batches add up to; ``averaged``: by a trainer that divides their losses."""
    step = subject.step(spec, still=True)
    share = 1 / len(batches) if averaged else 1.0
    sums: dict[str, Tensor] = {}
    try:
        window = step.window(batches, averaged=averaged)
    except InputError as error:
        raise NotApplicable(one_sentence(error)) from error
    with window:
        for batch in batches:
            out = step(**batch)
            (out.loss * share).backward()
            for name, value in losses_of(out).items():
                sums[name] = sums.get(name, torch.zeros(())) + value * share
    return Result(sums, gradients(step))
