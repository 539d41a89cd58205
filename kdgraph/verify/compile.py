"""``torch.compile(step)`` = ``step``."""

from __future__ import annotations

import torch

from kdgraph.capture.world import quiet
from kdgraph.verify._compare import stepped
from kdgraph.verify._subject import Subject
from kdgraph.verify.base import Finding, NotApplicable, register_check

BACKEND = "inductor"


@register_check("compile")
def run(subject: Subject) -> Finding:
    """By inductor; loss and gradients."""
    _refuse_without_compiler(subject)
    spec, notes = subject.calm()
    eager = stepped(subject.step(spec, still=True), subject.batch())
    step = subject.step(spec, still=True)
    torch.compiler.reset()
    try:
        with quiet():
            found = stepped(step, subject.batch(), torch.compile(step, backend=BACKEND))
    finally:
        torch.compiler.reset()
    return Finding(
        f"torch.compile, {BACKEND} = eager", found.gaps(eager), subject.rounding, tuple(notes)
    )


def _refuse_without_compiler(subject: Subject) -> None:
    """Says so where there is nothing to compile with."""
    if BACKEND != "inductor" or subject.device.type != "cpu":
        return
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise NotApplicable("inductor needs a C++ compiler, and there is none") from error
