"""The networks of a spec: built or handed over, frozen where they are not trained, captured."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from kdgraph.capture import Captured
from kdgraph.capture.ladder import RUNGS
from kdgraph.capture.liveness import by_batch, is_random, keep_dropout, still
from kdgraph.capture.record import one_line
from kdgraph.capture.together import capture_calls, capture_together
from kdgraph.capture.twin import twin
from kdgraph.errors import CaptureError, Diagnostic, KDGraphError, ModelError, SpecError, near
from kdgraph.graph.example import example_batch
from kdgraph.models._lora import add_lora
from kdgraph.models._start import start_from
from kdgraph.models.load import build_model, build_skeleton, build_untrained, is_pretrained
from kdgraph.spec.calls import together
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
    for name, net in cast(Mapping[str, object], given).items():
        if not isinstance(net, nn.Module):
            kind = type(net).__name__
            raise ModelError.of("KD409", f"model {name!r} must be an nn.Module, not {kind}")
        if name in spec.models and (copied := spec.models[name].snapshot_of) is not None:
            message = f"model {name!r} is a snapshot of {copied!r}; hand over that"
            raise ModelError.of("KD409", message)
        if name in spec.models and (network := spec.network(name)) != name:
            message = f"model {name!r} is another call of {network!r}; hand over that"
            raise ModelError.of("KD409", message)
        if name not in spec.models:
            known = ", ".join(spec.models)
            hint = near(name, spec.models) or f"the spec names {known}"
            raise ModelError.of("KD409", f"the spec has no model {name!r}", help=hint)
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
    refuse(_shared(spec, nets))
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
        start_from(nets[name], other, written.layers, written.model)
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


def _shared(spec: Spec, nets: Mapping[str, nn.Module]) -> list[Diagnostic]:
    """Parameters that a frozen model and a trained one have in common."""
    owner = {p: n for n, net in nets.items() if spec.is_learning(n) for p in net.parameters()}
    found: list[Diagnostic] = []
    for name, net in nets.items():
        shared = {owner[p] for p in net.parameters() if p in owner}
        if not spec.is_learning(name) and shared:
            message = f"model {name!r} is frozen, but has parameters of {sorted(shared)[0]!r}"
            help = "hand over a copy: copy.deepcopy(net)"
            found.append(Diagnostic("KD409", message, spec.span("models", name), help))
    return found


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


def capture_networks(spec: Spec, nets: Mapping[str, nn.Module]) -> dict[str, Captured]:
    """Captures each network for its taps; roles of one network on one input together.

    Raises:
        SpecError: with everything that cannot be captured, each with its place in the spec.
    """
    captures: dict[str, Captured] = {}
    wrong: list[Diagnostic] = []
    for name, net in nets.items():
        calls = together(spec, name)
        roles = calls.models if calls.several else _roles(spec, nets, name)
        if roles[0] != name:
            continue
        taps = {role: spec.models[role].taps for role in roles}
        try:
            inputs, free = _inputs(spec, name, net)
            if spec.models[name].dropout:
                _check_dropout(spec, name, net, inputs)
            rungs = RUNGS if (rung := spec.models[name].capture) == "auto" else (rung,)
            if calls.several:
                captures[name] = capture_calls(
                    net, inputs, taps, len(calls.batches), free=free, rungs=rungs
                )
            else:
                captures |= capture_together(net, inputs, taps, free=free, rungs=rungs)
        except CaptureError as error:
            for found in error.diagnostics:
                named = [
                    r for r in roles if any(repr(p) in found.message for p in taps[r].values())
                ]
                wrong += [_located(found, spec, role) for role in named or [name]]
    refuse(wrong)
    return {name: captures[name] for name in nets}


def _check_dropout(spec: Spec, name: str, net: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Refuses a model whose buffers would change, and one in which nothing is random."""
    span = spec.span("models", name, "dropout")
    if (moves := still(net, inputs)) is not None:
        message = f"model {name!r}: {moves!r} changes at every step, so dropout cannot stay on"
        raise CaptureError.of("KD409", message, span=span)
    if not is_random(net, inputs):
        message = f"model {name!r} has `dropout: true`, but nothing in it is random"
        help = "give its source a rate (`args: {drop_rate: 0.2}` in timm), or leave `dropout` out"
        raise CaptureError.of("KD409", message, span=span, help=help)


def _roles(spec: Spec, nets: Mapping[str, nn.Module], name: str) -> Sequence[str]:
    """The models that are one frozen network on one input, ``name`` among them."""
    if spec.is_trainable(name):
        return [name]
    return [
        other
        for other, net in nets.items()
        if net is nets[name]
        and not spec.is_trainable(other)
        and not together(spec, other).several
        and spec.inputs(other) == spec.inputs(name)
    ]


def _inputs(
    spec: Spec, name: str, net: nn.Module
) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Example tensors for the arguments of a model's forward, and the sizes that stay free."""
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    batch = example_batch(spec, device)
    written = spec.inputs(name)
    if isinstance(written, str):
        first = next(iter(inspect.signature(net.forward).parameters), "input")
        written = {first: written}
    shapes = {argument: spec.batch[entry].shape for argument, entry in written.items()}
    free = {
        a: [i for i, s in enumerate(shape) if isinstance(s, str)] for a, shape in shapes.items()
    }
    return {argument: batch[entry] for argument, entry in written.items()}, free


def _located(found: Diagnostic, spec: Spec, model: str) -> Diagnostic:
    """Gives a capture's finding its place: the tap it names, else the model."""
    if found.span is not None:
        return found
    taps = spec.models[model].taps
    tap = next((t for t, path in taps.items() if repr(path) in found.message), None)
    keys = ("models", model, "taps", tap) if tap else ("models", model)
    message = f"model {model!r}: {found.message}"
    return Diagnostic(found.code, message, spec.span(*keys), found.help, found.severity)


def refuse(found: Sequence[Diagnostic]) -> None:
    """Raises what is an error among the findings, all of it at once."""
    errors = [d for d in found if d.severity == "error"]
    if errors:
        raise SpecError(errors)
