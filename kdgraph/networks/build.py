"""Building the networks of a spec that are not handed over; freezing what is not trained."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import nn

from kdgraph.capture.liveness import by_batch, keep_dropout
from kdgraph.capture.record import one_line
from kdgraph.capture.twin import twin
from kdgraph.errors import Diagnostic, KDGraphError, ModelError, refuse
from kdgraph.models._lora import add_lora
from kdgraph.models._start import start_from
from kdgraph.models.load import build_model, build_skeleton, build_untrained, is_pretrained
from kdgraph.networks.given import check_given, shared_parameters
from kdgraph.spec.language import Spec


def build_networks(
    spec: Spec, given: Mapping[str, nn.Module], trust: Collection[str], *, skeleton: bool = False
) -> dict[str, nn.Module]:
    """Builds what is not given, in the spec's order; freezes what is not trained.

    Args:
        spec: names the models.
        given: modules to use as they are, by model.
        trust: Python modules that ``python/`` sources may come from.
        skeleton: without weights, for shapes alone.

    Raises:
        KDGraphError: with every model that cannot be had.
    """
    trust = (trust,) if isinstance(trust, str) else trust  # not its letters
    check_given(spec, given)
    nets: dict[str, nn.Module] = {}
    wrong: list[Diagnostic] = []
    # one that starts from another comes last: what describes it may be fetched with the other
    for name in sorted(spec.networks, key=lambda n: spec.models[n].start_from is not None):
        if spec.models[name].snapshot_of is not None:
            continue  # once there is what it copies
        try:
            if name in given:
                net = given[name]
            elif same := _same_network(spec, name, nets.keys() - given.keys()):
                net = nets[same]
            else:
                net = _build(spec, name, trust, skeleton)
        except KDGraphError as error:
            wrong += error.diagnostics
            continue
        nets[name] = net
    refuse(wrong)
    refuse(shared_parameters(spec, nets))
    for name in nets.keys() - given.keys():
        _start(spec, name, nets, trust, skeleton)
    for name, net in nets.items():
        if (lora := spec.models[name].lora) is not None:
            add_lora(net, lora, spec.span("models", name, "lora"))
    nets = {n: nets[n] if n in nets else _snapshot(spec, n, nets) for n in spec.networks}
    for name, net in nets.items():
        net.train(spec.is_trainable(name))
        if not spec.is_learning(name):
            net.requires_grad_(False)
    return _as_in_training(spec, nets)


def build_network(spec: Spec, name: str, trust: Collection[str]) -> nn.Module:
    """Builds one model by itself, with the weights that it starts from.

    Raises:
        KDGraphError: as ``build_networks``.
    """
    net = _build(spec, name, trust, skeleton=False)
    _start(spec, name, {name: net}, trust, skeleton=False)
    return net


def _start(
    spec: Spec, name: str, nets: Mapping[str, nn.Module], trust: Collection[str], skeleton: bool
) -> None:
    """Copies the weights that a model starts from, of a network at hand or built for that."""
    written = spec.models[name].start_from
    if written is None:
        return
    other = nets.get(written.model)
    if other is None:
        other = _build(spec, written.model, trust, skeleton)
    try:
        start_from(nets[name], other, written.layers, written.model, skeleton=skeleton)
    except ModelError as error:
        span = spec.span("models", name, "start_from")
        raise ModelError(replace(d, span=span) for d in error.diagnostics) from error


def _snapshot(spec: Spec, name: str, nets: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of a trained model, for a module whose weights are copied in again and again."""
    copied = spec.models[name].snapshot_of
    assert copied is not None
    try:
        return copy.deepcopy(nets[copied])
    except Exception as error:  # the model's own parts may refuse
        message = f"model {copied!r} cannot be copied: {one_line(error)}"
        span = spec.span("models", name, "snapshot_of")
        raise ModelError.of("KD409", message, span=span) from error


def _as_in_training(spec: Spec, nets: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Keeps on what the spec says, apart from a role of the same network without."""
    found = dict(nets)
    for name, net in nets.items():
        if spec.models[name].batch_statistics:
            found[name] = _by_batch(spec, name, net)
        if spec.models[name].dropout:
            shared = any(other is net and not spec.models[n].dropout for n, other in nets.items())
            if shared and found[name] is net:
                found[name] = twin(net)
            keep_dropout(found[name])
    return found


def _by_batch(spec: Spec, name: str, net: nn.Module) -> nn.Module:
    copied = by_batch(net)
    if copied is None:
        message = f"model {name!r} has `batch_statistics: true`, but no batch norm"
        span = spec.span("models", name, "batch_statistics")
        raise ModelError.of("KD409", message, span=span, help="leave the key out")
    return copied


def _same_network(spec: Spec, name: str, built: Collection[str]) -> str | None:
    """A frozen model already built that has the same weights, by the words of the spec."""
    model = spec.models[name]
    if spec.is_moving(name) or model.source is None:
        return None
    if model.weights is None and not is_pretrained(model.source, model.args):
        return None  # each starts from weights of its own
    told = ("source", "args", "weights", "precision", "dropout", "batch_statistics")
    for other in spec.models:
        found = spec.models[other]
        equal = all(getattr(found, key) == getattr(model, key) for key in told)
        if other in built and equal and not spec.is_moving(other):
            return other
    return None


def _build(spec: Spec, name: str, trust: Collection[str], skeleton: bool) -> nn.Module:
    model = spec.written(name)
    span = spec.span("models", name, "source")
    if model.source is None:
        raise ModelError.of(
            "KD409",
            f"model {name!r} has no source",
            span=spec.span("models", name),
            help=f"write `source:`, or hand it over: compile(..., models={{{name!r}: net}})",
        )
    if skeleton:
        return build_skeleton(model.source, model.args, trust=trust, span=span)
    if model.start_from is not None:
        return build_untrained(model.source, model.args, trust=trust, span=span)
    weights = spec.folder / model.weights if model.weights else None
    if weights is not None:
        span = spec.span("models", name, "weights")
    return build_model(model.source, model.args, weights=weights, trust=trust, span=span)
