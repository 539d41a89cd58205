"""Groups of an optimiser: which parts of a spec their patterns are of."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from kdgraph.errors import DataError, near
from kdgraph.runtime.report import Report
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import at_stage


def may_match(spec: Spec, pattern: str) -> bool:
    """Whether a pattern over names of parameters may be of a part of the spec.

    ``student.fc.*`` is where there is a model ``student``, ``links.mid.*`` where there is a link
    ``mid``. One that starts with a wildcard may match anything.
    """
    owner, _, rest = pattern.partition(".")
    if _is_open(owner):
        return True
    if owner in ("links", "losses", "signals"):
        return any(fnmatchcase(name, rest.partition(".")[0]) for name in getattr(spec, owner))
    return owner in spec.models


def fitting(derived: Spec, spec: Spec) -> Spec:
    """A spec made of another, its optimiser without groups for parts that only the other has."""
    assert derived.train is not None
    groups = []
    for group in derived.train.optimizer.groups:
        lost = {p for p in group.params if may_match(spec, p) and not may_match(derived, p)}
        if left := tuple(p for p in group.params if p not in lost):
            groups.append(group.model_copy(update={"params": left}))
    optimizer = derived.train.optimizer.model_copy(update={"groups": tuple(groups)})
    train = derived.train.model_copy(update={"optimizer": optimizer})
    return derived.model_copy(update={"train": train})


def check_groups(spec: Spec, plan: Report) -> None:
    """Finds groups of the optimiser of a stage that no parameter can be in.

    Patterns of models are compared with their parameters as they are now, at the start of the
    stage; of links and losses, whose parameters come with the stage, with the names of those that
    it or one before it has.

    Args:
        spec: with all stages.
        plan: of the stage, just made.

    Raises:
        DataError: KD712.
    """
    if plan.spec.train is None:
        return
    names = [
        # a quantised weight goes by the name that it has in the plain model
        re.sub(r"\.parametrizations\.(\w+)\.original$", r".\1", f"{model}.{name}")
        for model, captured in plan.captures.items()
        if spec.is_moving(model)
        for name, _ in captured.root.named_parameters()
    ]
    at = next((i for i, s in enumerate(spec.stages) if plan.spec.leg in s.legs), None)
    past = spec.stages[: at + 1] if at is not None else ()
    made = [at_stage(spec, leg) for stage in past for leg in stage.legs] or [spec]
    for group in plan.spec.train.optimizer.groups:
        if any(_is_found(pattern, names, made) for pattern in group.params):
            continue
        own = at is not None and spec.stages[at].optimizer is not None
        place = ("stages", at) if at is not None and own else ("train",)
        raise DataError.of(
            "KD712",
            f"no trained parameter is called {' or '.join(map(repr, group.params))}",
            span=spec.span(*place, "optimizer", "groups"),
            help=near(group.params[0], names),
        )


def _is_found(pattern: str, names: list[str], made: list[Spec]) -> bool:
    owner = pattern.partition(".")[0]
    if _is_open(owner) or owner not in made[0].models:
        return any(may_match(spec, pattern) for spec in made)
    return any(fnmatchcase(name, pattern) for name in names)


def _is_open(owner: str) -> bool:
    return any(sign in owner for sign in "*?[")
