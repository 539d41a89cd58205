"""``kdgraph export``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdgraph.cli._options import out_option, overrides, spec_argument
from kdgraph.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from kdgraph.spec.language import Spec

# What a run's folder holds, the finished before the unfinished.
_IN_A_RUN = ("student.safetensors", "weights.safetensors", "last.ckpt")


@click.command("export")
@spec_argument
@click.argument("checkpoint", type=click.Path(exists=True, path_type=Path))
@out_option("FILE", "The .safetensors file to write.")
@overrides
def command(
    spec: str, checkpoint: Path, out: Path, overrides: tuple[str, ...], trust: tuple[str, ...]
) -> None:
    r"""Writes the plain student of a training, without teacher and adapters.

    CHECKPOINT is a run's folder, its last.ckpt, a file of weights, or a state dict of the
    compiled module. The student is built from SPEC and must take every weight; the file then
    loads into the plain model with no kdgraph.

    \b
    Examples:
      kdgraph export kd.yaml runs/kd -o student.safetensors
      kdgraph export kd.yaml runs/kd/distilled/seed-0/last.ckpt -o student.safetensors
    """
    import kdgraph
    from kdgraph.actions._fold import without_actions
    from kdgraph.actions.prune import fit_widths
    from kdgraph.models.load import build_skeleton
    from kdgraph.models.weights import load_weights, save_weights

    checked = kdgraph.load_spec(spec, set=overrides)
    name = _student(checked)
    written = checked.models[name]
    span = checked.span("models", name)
    if written.source is None:
        raise ModelError.of(
            "KD410",
            f"model {name!r} has no source, so that its weights cannot be checked",
            span=span,
            help="in Python: DistillModule.save_student(path)",
        )
    student = build_skeleton(written.source, written.args, trust=trust, span=span)
    weights = _weights(checkpoint)
    if weights.suffix == ".safetensors" and checked.stages:
        fit_widths(student, weights)  # actions may have changed them
    elif weights.suffix == ".safetensors":
        load_weights(student, weights)
    else:
        data = _read(weights)
        if checked.stages:
            student = _as_actions_left_it(checked, name, data, trust)
        _load_part(student, data, weights, name)
        student = without_actions(student)
    save_weights(student, out)
    size = sum(p.numel() for p in student.parameters())
    click.echo(f"{out}  {written.source}, {size:,} parameters, from {weights}")


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


def _weights(checkpoint: Path) -> Path:
    if checkpoint.is_file():
        return checkpoint
    for name in _IN_A_RUN:
        if (found := checkpoint / name).is_file():
            return found
    raise ModelError.of("KD415", f"{checkpoint} holds none of {', '.join(_IN_A_RUN)}")


def _read(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the reader raise anything
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ModelError.of("KD415", f"{path} cannot be read: {said}") from error


def _as_actions_left_it(spec: Spec, name: str, data: Any, trust: tuple[str, ...]) -> nn.Module:
    """The student without values, after the actions that a checkpoint tells of."""
    from kdgraph.networks import build_networks
    from kdgraph.runtime.stages import Stages

    nets = build_networks(spec, {}, trust, skeleton=True)
    for course in _find_part(data, "stages._extra_state").values():
        Stages(spec, nets, _not_compiled, dict, skeleton=True).set_extra_state(course)
    return nets[name]


def _not_compiled(*_: Any) -> Any:
    raise AssertionError("networks alone are followed here")


def _load_part(student: nn.Module, data: Any, path: Path, name: str) -> None:
    """Loads the student's part of a checkpoint, which holds more."""
    state = _find_part(data, f"models.{name}.")
    if not state:
        raise ModelError.of("KD416", f"{path} has no weights of a model {name!r}")
    try:
        student.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError.of("KD416", f"{path} does not fit the student: {error}") from error


def _find_part(data: Any, prefix: str) -> dict[str, Any]:
    """The entries below ``prefix``, wherever a trainer has put them."""
    if not isinstance(data, Mapping):
        return {}
    found = {
        key.partition(prefix)[2]: value
        for key, value in data.items()
        if isinstance(key, str) and prefix in key
    }
    return found or next((f for v in data.values() if (f := _find_part(v, prefix))), {})
