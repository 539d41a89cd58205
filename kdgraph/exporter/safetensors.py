"""``.safetensors``: the weights alone, for the plain model as its own library builds it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from kdgraph.actions.prune import fit_widths
from kdgraph.capture.record import call_module
from kdgraph.errors import ExportError, KDGraphError
from kdgraph.exporter.base import Format, Run, Sizes, Student, register_format
from kdgraph.models.load import build_skeleton
from kdgraph.models.weights import save_weights

_SHOWN = 4


@register_format
class Safetensors(Format):
    """Read back into a model that its source has just built.

    Quantised weights are floats of few values, attention and adapters are folded into the weights
    beside them.
    """

    suffix = ".safetensors"
    tolerance = 1e-5
    reader = "the model as its source builds it"

    def write(self, student: Student, path: Path) -> Sizes:
        save_weights(_as_trained(student), path)
        return Sizes()

    def read(self, path: Path, student: Student) -> tuple[Run, list[str]]:
        module, notes = _built(path, student)
        return (lambda inputs: call_module(module, inputs, student.positional)), notes


def _as_trained(student: Student) -> nn.Module:
    """The plain student, in which what was not folded is as it was trained, in its own type."""
    if not student.other:
        return student.plain
    copied = copy.deepcopy(student.plain)
    tensors = copied.state_dict(keep_vars=True)
    for name in student.other.keys() & tensors.keys():
        own = student.other[name].cpu()
        if torch.equal(own.float(), tensors[name]):
            tensors[name].data = own
    return copied


def _built(path: Path, student: Student) -> tuple[nn.Module, list[str]]:
    """A model with the weights of the file, and what is unusual about getting there."""
    from safetensors.torch import load_file, load_model

    written = student.spec.models[student.name]
    if written.source is None:
        module = _emptied(student.plain)
        load_model(module, path)
        return module, ["the spec names no source, so it was loaded into a copy of the student"]
    for name, source, args in _candidates(student):
        span = student.spec.span("models", name)
        module = build_skeleton(source, args, trust=student.trust, span=span).float().eval()
        try:
            load_model(module, path)
        except RuntimeError:  # names or shapes
            continue
        own = name == student.name
        return module, [] if own else [f"it is a {source} as model {name!r} has it, {args}"]
    module = build_skeleton(written.source, written.args, trust=student.trust).float().eval()
    before = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    try:
        fit_widths(module, path)
    except KDGraphError as error:
        counts = error.diagnostics[0].message.partition("\n")[0].rpartition(": ")[2]
        raise ExportError.of(
            "KD782",
            f"model {student.name!r} is no {written.source} any more, so that its weights alone "
            f"load nowhere: {counts}",
            span=student.spec.span("models", student.name),
            help=".pt2 and .onnx files hold what it has become",
        ) from error
    return module, [_widths(before, load_file(path))]


def _candidates(student: Student) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    """The student, and then the other models of its source: after a graft it may be one of them."""
    source = student.spec.models[student.name].source
    for name in dict.fromkeys((student.name, *student.spec.networks)):
        model = student.spec.models[name]
        if source is not None and model.source == source:
            yield name, source, model.args


def _widths(before: Mapping[str, list[int]], file: Mapping[str, Tensor]) -> str:
    """What pruning made of sizes, and how a model gets them."""
    other = {name: list(t.shape) for name, t in file.items() if before.get(name) != list(t.shape)}
    shown = [f"{name} {before[name]} -> {shape}" for name, shape in list(other.items())[:_SHOWN]]
    more = ", ..." if len(other) > _SHOWN else ""
    return (
        f"its source builds other widths: {', '.join(shown)}{more}; "
        "`kdgraph.actions.prune.fit_widths(model, FILE)` gives a model those, "
        "or build it with them; .pt2 and .onnx hold them"
    )


def _emptied(module: nn.Module) -> nn.Module:
    """A copy in which every number is nan, so that one that the file lacks shows."""
    copied = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in copied.state_dict().values():
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                tensor.fill_(torch.nan)
    return copied
