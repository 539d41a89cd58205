"""``lora`` and ``start_from`` of a model: what is done to it before training. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from kdgraph.errors import Diagnostic, near
from kdgraph.spec.types import DOCUMENTED, Count, Fraction, Name, Positive, Strict, Whole

if TYPE_CHECKING:
    from kdgraph.spec.language import Spec
    from kdgraph.spec.names import Broken
    from kdgraph.spec.tree import Places

_Targets = Annotated[
    tuple[str, ...],
    BeforeValidator(
        lambda v: (v,) if isinstance(v, str) else v, json_schema_input_type=str | list[str]
    ),
    Field(strict=False, min_length=1),
]


class LoraSpec(Strict):
    """Low-rank adapters beside linear layers, by peft: they are trained, and nothing else is.

    ``W x + (alpha / r) B A x``; B starts at 0, so that the model starts as it is. Hu et al. 2021
    (arXiv 2106.09685). Saved and exported weights are the merged ones, of the plain model.
    """

    model_config = DOCUMENTED

    r: Count = 8
    """The rank of ``B A``."""

    alpha: Positive = 16.0
    """What is learned is scaled by ``alpha / r``."""

    targets: _Targets | None = None
    """Ends of module paths, such as ``[q_proj, v_proj]``, or ``all-linear``; left out: what peft
    takes for models of this type."""

    dropout: Fraction = 0.0
    """Of what enters the adapters, in train mode."""


class StartSpec(Strict):
    """Weights copied from another model before training: all that the model has, or none."""

    model_config = DOCUMENTED

    model: Name
    """The model that they come from."""

    layers: dict[str, Annotated[tuple[Whole, ...], Field(strict=False, min_length=1)]] = {}
    """Path of a list of layers to the number, in the other model, of each: ``{model.layers: [0, 4,
    8]}`` has the first three start as layers 0, 4 and 8. Left out: names are equal throughout."""


def check_adapted(spec: Spec, places: Places, broken: Broken = ()) -> Iterator[Diagnostic]:
    """KD218 for ``lora`` or ``start_from`` where it cannot be, KD202 for no such model.

    Args:
        spec: what is checked.
        places: where its values were written.
        broken: (section, name) of entries with errors of their own, which are left out.
    """
    for name, model in spec.models.items():
        if model.same_as is not None or model.snapshot_of is not None:
            continue  # which have none of their own, see check_roles and check_calls
        for key in ("lora", "start_from"):
            if getattr(model, key) is not None and not _learns(spec, name):
                message = f"model {name!r} is not trained, so it cannot have `{key}`"
                help = "`trainable: true` trains it; frozen models are used as they are"
                yield Diagnostic("KD218", message, places.key(("models", name, key)), help)
        if model.start_from is None:
            continue
        place = places.value(("models", name, "start_from", "model"))
        other = model.start_from.model
        if other == name:
            yield Diagnostic("KD218", f"model {name!r} would start from itself", place)
        elif other not in spec.models and ("models", other) not in broken:
            known = [n for n in spec.networks if n != name]
            hint = near(other, known) or (f"there is {', '.join(known)}" if known else None)
            yield Diagnostic("KD202", f"there is no model {other!r}", place, hint)
        elif other in spec.models and not _has_weights(spec, other):
            message = f"model {name!r} cannot start from {other!r}, which has no weights of its own"
            yield Diagnostic("KD218", message, place, "name a model that has a `source`")
        if model.weights is not None:
            message = f"model {name!r} has both `weights` and `start_from`"
            place = places.key(("models", name, "start_from"))
            yield Diagnostic("KD218", message, place, "leave one of them out")


def _learns(spec: Spec, name: str) -> bool:
    """Whether a model is trained, at once or in some stage."""
    from kdgraph.spec.legs import learning  # which reads the language, and that reads this file

    return spec.is_trainable(name) or name in learning(spec)


def _has_weights(spec: Spec, name: str) -> bool:
    """Whether a model is built, and not a call, a copy or the heir of another."""
    model = spec.models[name]
    return model.same_as is None and model.snapshot_of is None and model.start_from is None
