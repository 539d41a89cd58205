"""Capturing the networks of a spec for their taps."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kdgraph.capture import Captured
from kdgraph.capture.ladder import RUNGS
from kdgraph.capture.liveness import is_random, still
from kdgraph.capture.together import capture_calls, capture_together
from kdgraph.errors import CaptureError, Diagnostic, refuse
from kdgraph.graph.example import example_batch
from kdgraph.spec.calls import together
from kdgraph.spec.language import Spec


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
