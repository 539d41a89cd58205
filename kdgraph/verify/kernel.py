"""Losses by GPU kernels = by their references, in float32."""

from __future__ import annotations

from kdgraph.kernels.base import interpreted
from kdgraph.verify._compare import stepped
from kdgraph.verify._subject import Subject
from kdgraph.verify.base import Finding, NotApplicable, register_check

_PASS = "select_kernels"


@register_check("kernel")
def run(subject: Subject) -> Finding:
    """Where a kernel computes an edge of the spec."""
    subject = subject.single()
    if subject.device.type != "cuda" and not interpreted():
        message = "kernels run on CUDA; TRITON_INTERPRET=1 runs them on the CPU, slowly"
        raise NotApplicable(message)
    step = subject.step()
    (record,) = [r for r in step.report.records if r.name == _PASS]
    if not record.did:
        why = "; ".join(record.declined)
        raise NotApplicable(f"no kernel computes an edge of this spec{why and f': {why}'}")
    found = stepped(step, subject.batch())
    plain = stepped(subject.step(without=[_PASS]), subject.batch())
    return Finding("kernels = references", found.gaps(plain), subject.rounding, tuple(record.did))
