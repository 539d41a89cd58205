"""kdgraph: a compiler for knowledge distillation.

A YAML spec names a teacher and a student, the taps inside them, the links between taps and the
loss edges on links; ``kdgraph.compile`` turns it into one ``nn.Module`` that any trainer can
step. Names load on first use, so that reading a spec needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdgraph.compiler import check, compile, draw, plan
    from kdgraph.errors import Diagnostic, KDGraphError
    from kdgraph.exporter import Exported, export
    from kdgraph.runtime.module import DistillModule, StepOutput
    from kdgraph.spec.language import Spec
    from kdgraph.spec.read import load_spec

__version__ = "0.1.0"

_HOME = {
    "check": "kdgraph.compiler",
    "compile": "kdgraph.compiler",
    "draw": "kdgraph.compiler",
    "plan": "kdgraph.compiler",
    "Diagnostic": "kdgraph.errors",
    "KDGraphError": "kdgraph.errors",
    "Exported": "kdgraph.exporter",
    "export": "kdgraph.exporter",
    "DistillModule": "kdgraph.runtime.module",
    "StepOutput": "kdgraph.runtime.module",
    "Spec": "kdgraph.spec.language",
    "load_spec": "kdgraph.spec.read",
}

__all__ = [
    "Diagnostic",
    "DistillModule",
    "Exported",
    "KDGraphError",
    "Spec",
    "StepOutput",
    "check",
    "compile",
    "draw",
    "export",
    "load_spec",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'kdgraph' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
