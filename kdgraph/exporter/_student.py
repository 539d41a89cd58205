"""From a spec and what training left to the student that is exported."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdgraph.actions._fold import without_actions
from kdgraph.actions.prune import fit_widths
from kdgraph.capture.record import positional_names
from kdgraph.errors import ModelError
from kdgraph.exporter._inputs import probe
from kdgraph.exporter._words import root_cause
from kdgraph.exporter.base import Student
from kdgraph.models._lora import add_lora
from kdgraph.models.bounded import bounded
from kdgraph.models.load import build_skeleton
from kdgraph.models.weights import check_finite, load_tensors, load_weights
from kdgraph.networks import build_networks
from kdgraph.runtime.module import DistillModule
from kdgraph.runtime.parts import has_parts, module_state
from kdgraph.runtime.stages import Stages
from kdgraph.spec.files import WEIGHTS
from kdgraph.spec.language import Spec

# What a run's folder holds, the finished before the unfinished.
_IN_A_RUN = ("student.safetensors", "weights.safetensors", "last.ckpt")


def take_student(spec: Spec, checkpoint: Path | nn.Module, trust: Collection[str]) -> Student:
    """The student of a file; of a module a copy, which is all that changes.

    Raises:
        ModelError: KD409 the module cannot be copied; KD410 there is no telling which model it is,
            or what it is built from; KD415 the checkpoint cannot be read; KD416 it is of another
            model.
    """
    name = _student(spec)
    if isinstance(checkpoint, nn.Module):
        given = checkpoint.student if isinstance(checkpoint, DistillModule) else checkpoint
        trained = _copied(given, name)
    else:
        trained = _rebuilt(spec, name, checkpoint, trust)
    other = {
        key: value
        for key, value in trained.state_dict().items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float32
    }
    trained = trained.requires_grad_(False).cpu().float().eval()
    entries = spec.inputs(name)
    if isinstance(entries, str):  # the spec gives it to forward as the first argument
        first = next(iter(inspect.signature(trained.forward).parameters.values()), None)
        known = first is not None and first.kind is not inspect.Parameter.VAR_POSITIONAL
        entries = {first.name if first is not None and known else entries: entries}
        positional = frozenset(entries)
    else:
        positional = positional_names(trained, entries)
    plain = without_actions(trained)
    return probe(Student(spec, name, trained, plain, entries, positional, trust, other))


def _copied(module: nn.Module, name: str) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # the model's own parts may refuse
        message = f"model {name!r} cannot be copied: {root_cause(error)}"
        raise ModelError.of("KD409", message) from error


def _student(spec: Spec) -> str:
    """The model named student, or the only trained one."""
    trained = [n for n in spec.networks if spec.is_learning(n)]
    if "student" in trained:
        return "student"
    if len(trained) > 1:
        raise ModelError.of(
            "KD410", f"several models are trained: {', '.join(trained)}; none is named student"
        )
    return trained[0]


def find_weights(checkpoint: Path) -> Path:
    """The file that is meant: the checkpoint itself, or the best that a run's folder holds.

    Raises:
        ModelError: KD415 where there is none.
    """
    if checkpoint.is_file() or has_parts(checkpoint):
        return checkpoint
    for name in _IN_A_RUN:
        if (found := checkpoint / name).is_file() or has_parts(found):
            return found
    raise ModelError.of("KD415", f"{checkpoint} holds none of {', '.join(_IN_A_RUN)}")


def _rebuilt(spec: Spec, name: str, weights: Path, trust: Collection[str]) -> nn.Module:
    """The student from its source, with the weights of a file."""
    written, span = spec.models[name], spec.span("models", name)
    if written.source is None:
        raise ModelError.of(
            "KD410",
            f"model {name!r} has no source, so that its weights cannot be checked",
            span=span,
            help="in Python: kdgraph.export(spec, step, out)",
        )
    student = build_skeleton(written.source, written.args, trust=trust, span=span)
    _refuse_drawn(spec, name, student, trust)
    data = None if weights.suffix == ".safetensors" else _read(weights)
    state = _find_part(data, f"models.{name}.")
    if not state and weights.suffix in WEIGHTS:  # of the student alone
        fit = fit_widths if spec.stages else load_weights  # actions may have changed widths
        fit(student, weights)
    else:
        if spec.stages:
            student = _as_actions_left_it(spec, name, data, trust)
        elif written.lora is not None:
            add_lora(student, written.lora, span)
        _load_part(student, state, weights, name)
    check_finite(student, weights)
    return student


def _refuse_drawn(spec: Spec, name: str, student: nn.Module, trust: Collection[str]) -> None:
    """A buffer that no file holds has to be the same each time that the student is built."""
    saved = student.state_dict()
    unsaved = {key: value for key, value in student.named_buffers() if key not in saved}
    if not unsaved:
        return
    written, span = spec.models[name], spec.span("models", name)
    assert written.source is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + 1)
        other = build_skeleton(written.source, written.args, trust=trust, span=span)
    for key, value in other.named_buffers():
        if key in unsaved and not value.isclose(unsaved[key], equal_nan=True).all():
            raise ModelError.of(
                "KD410",
                f"model {name!r} cannot be built as it was trained: its buffer {key!r} is random, "
                "and not persistent, so that no checkpoint holds it",
                span=span,
                help="in Python, where it was trained: kdgraph.export(spec, step, out)",
            )


def _read(path: Path) -> Any:
    try:
        if has_parts(path):
            return module_state(path)
        return torch.load(bounded(path), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the reader raise anything
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ModelError.of("KD415", f"{path} cannot be read: {said}") from error


def _as_actions_left_it(spec: Spec, name: str, data: Any, trust: Collection[str]) -> nn.Module:
    """The student without values, after the actions that a checkpoint tells of."""
    nets = build_networks(spec, {}, trust, skeleton=True)
    for course in _find_part(data, "stages._extra_state").values():
        Stages(spec, nets, _not_compiled, dict, skeleton=True).set_extra_state(course)
    return nets[name]


def _not_compiled(*_: Any) -> Any:
    raise AssertionError("networks alone are followed here")


def _load_part(student: nn.Module, state: Mapping[str, Any], path: Path, name: str) -> None:
    """Loads the student's part of a checkpoint, which holds more."""
    if not state:
        raise ModelError.of("KD416", f"{path} has no weights of a model {name!r}")
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    try:
        load_tensors(student, tensors, str(path))
        if len(tensors) < len(state):  # what a model says of itself beside them
            student.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError.of("KD416", f"{path} does not fit the student: {error}") from error


def _find_part(data: Any, prefix: str) -> dict[str, Any]:
    """The entries below ``prefix``, wherever a trainer has put them."""
    waiting, seen = [data], set()
    while waiting:
        part = waiting.pop()
        if not isinstance(part, Mapping) or id(part) in seen:
            continue
        seen.add(id(part))
        found = {
            key.partition(prefix)[2]: value
            for key, value in part.items()
            if isinstance(key, str) and prefix in key
        }
        if found:
            return found
        waiting += reversed([*part.values()])
    return {}
