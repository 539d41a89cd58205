"""What a model may be: trained, frozen, frozen with its dropout on, a snapshot of a trained one."""

from __future__ import annotations

from collections.abc import Iterator

from kdgraph.errors import Diagnostic, near
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import levels
from kdgraph.spec.names import Broken
from kdgraph.spec.tree import Places

_OWN = (
    "source",
    "args",
    "weights",
    "start_from",
    "lora",
    "dropout",
    "batch_statistics",
    "precision",
)  # what a snapshot takes from the model it copies


_KEPT_ON = {
    "dropout": "dropout of a trained model is on",
    "batch_statistics": "batch norms of a trained model use the statistics of the batch",
}


def check_roles(spec: Spec, places: Places, broken: Broken = ()) -> Iterator[Diagnostic]:
    """KD211 for what is kept on in a trained model; KD202 and KD212 for what is no snapshot.

    KD212 and KD213 also for stages that would train a snapshot, or another call by itself.

    Args:
        spec: what is checked.
        places: where its values were written.
        broken: (section, name) of entries with errors of their own, which are left out.
    """
    for name, model in spec.models.items():
        if model.snapshot_of is not None:
            yield from _snapshot(spec, places, broken, name, model.snapshot_of)
        elif spec.is_trainable(name):
            for key, what in _KEPT_ON.items():
                if getattr(model, key):
                    message = f"model {name!r} is trained, so it cannot have `{key}: true`"
                    help = f"{what} in train mode as it is; leave the key out"
                    yield Diagnostic("KD211", message, places.key(("models", name, key)), help)
    yield from _in_stages(spec, places)


def _in_stages(spec: Spec, places: Places) -> Iterator[Diagnostic]:
    """What stages say of models that are trained as another is, or not at all."""
    for keys, level in levels(spec):
        for name, on in level.trainable.items():
            place = places.key((*keys, "trainable", name))
            model = spec.models.get(name)
            if model is not None and model.same_as is not None:
                message = f"model {name!r} is another call of {model.same_as!r}, "
                message += "so a stage cannot train or freeze it by itself"
                yield Diagnostic("KD213", message, place, f"write {model.same_as!r} here")
            elif model is not None and model.snapshot_of is not None and on:
                message = f"model {name!r} is a snapshot of {model.snapshot_of!r}, "
                message += "so it cannot be trained"
                yield Diagnostic("KD212", message, place, "leave it out")


def _snapshot(
    spec: Spec, places: Places, broken: Broken, name: str, copied: str
) -> Iterator[Diagnostic]:
    place = places.value(("models", name, "snapshot_of"))
    copies = {n for n, model in spec.models.items() if model.snapshot_of is not None}
    trained = [n for n in spec.models if spec.is_trainable(n) and n not in copies]
    if copied in spec.models and copied not in trained:
        why = "is this very model" if copied == name else "is not trained itself"
        message = f"model {name!r} is a snapshot of {copied!r}, which {why}"
        help = f"trained: {', '.join(trained)}" if trained else None
        yield Diagnostic("KD212", message, place, help)
    elif copied not in spec.models and ("models", copied) not in broken:
        help = near(copied, trained) or (f"trained: {', '.join(trained)}" if trained else None)
        yield Diagnostic("KD202", f"there is no model {copied!r}", place, help)
    if spec.is_trainable(name):
        message = f"model {name!r} is a snapshot of {copied!r}, so it cannot be trained"
        help = "only the model named `student` is trained where nothing is said"
        yield Diagnostic("KD212", message, places.key(("models", name)), help)
    for key in _OWN:
        if getattr(spec.models[name], key):
            message = f"model {name!r} is a snapshot of {copied!r}, so it has no `{key}` of its own"
            yield Diagnostic("KD212", message, places.key(("models", name, key)), "leave it out")
