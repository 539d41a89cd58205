"""The spec as it was resolved, and its edges in few words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kdgraph.runtime.report import Report as Compiled
from kdgraph.spec.language import Spec
from kdgraph.visual.lock import lock
from kdgraph.visual.words import entry_words, number_words


def as_written(plan: Compiled, written: Spec) -> Compiled:
    """With weights as they were written: where a teacher was trained to is not a part of it."""
    models = {
        name: model.model_copy(
            update={"weights": written.models[name].weights if name in written.models else None}
        )
        for name, model in plan.spec.models.items()
    }
    return replace(plan, spec=plan.spec.model_copy(update={"models": models}))


def document(plan: Compiled) -> str:
    """YAML with everything resolved; of a stage what it comes to by itself."""
    head = f"# {plan.spec.leg}\n" if plan.spec.leg else ""
    return head + lock(plan, plan.spec.folder)


def edges_of(spec: Spec) -> list[dict[str, Any]]:
    """What each edge is, where it reads, and its weight, in words."""
    return [
        {
            "name": name,
            "is": entry_words(edge),
            "reads": [ref for _, ref in edge.references()],
            "weight": number_words(edge.weight),
        }
        for name, edge in spec.losses.items()
    ]
