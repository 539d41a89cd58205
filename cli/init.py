"""``kdgraph init``."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdgraph.cli._inputs import example_inputs
from kdgraph.cli._inputs import size as read_size
from kdgraph.cli._options import out_option, trust_option
from kdgraph.cli._show import tell
from kdgraph.cli._template import Side, spec_text
from kdgraph.errors import KDGraphError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdgraph.capture import TapInfo

_HEADS = ("sequence-classification", "image-classification", "audio-classification")
RECIPES = ("logits", "hints", "relations")


@click.command("init")
@click.option("--teacher", required=True, metavar="SOURCE/NAME", help="The model to learn from.")
@click.option("--student", required=True, metavar="SOURCE/NAME", help="The model to train.")
@click.option(
    "--recipe",
    type=click.Choice(RECIPES),
    default="logits",
    show_default=True,
    help="Soft targets; also hints at matching depths; relations between samples.",
)
@click.option("--classes", type=click.IntRange(min=2), metavar="N", help="Of both models.")
@click.option(
    "--input",
    "size",
    type=read_size,
    metavar="3x224x224",
    help="Size of the input without the batch; left out: what the teacher is made for.",
)
@trust_option
@out_option("FILE", "Left out: stdout.", required=False)
@click.pass_context
def command(
    ctx: click.Context,
    teacher: str,
    student: str,
    recipe: str,
    classes: int | None,
    size: tuple[int, ...] | None,
    trust: tuple[str, ...],
    out: Path | None,
) -> None:
    r"""Writes a spec for two models, with comments, to start from.

    Both models are built without weights; taps are proposed where their resolutions or depths
    match. The spec is checked before it is written.

    \b
    Examples:
      kdgraph init --teacher timm/resnet50 --student timm/mobilenetv3_small_050 -o kd.yaml
      kdgraph init --teacher timm/resnet50 --student timm/resnet18 --recipe hints --classes 37
      kdgraph init --teacher hf/bert --student hf/distilbert --recipe hints --classes 2
      kdgraph init --teacher hf/openai-community/gpt2 --student hf/distilbert/distilgpt2
    """
    if out is not None and out.exists():
        raise click.BadParameter(f"{out} exists; name another file, or remove it", param_hint="-o")
    sides = {
        "teacher": _Built.of(teacher, classes, trust),
        "student": _Built.of(student, classes, trust),
    }
    inputs = example_inputs(teacher, sides["teacher"].module, sides["teacher"].args, size)
    if size is None:
        size = tuple(next(iter(inputs.values())).shape[1:])
    texts = {
        role: Side(built.source, built.args, built.taps(size), built.arguments(size))
        for role, built in sides.items()
    }
    text = spec_text(texts["teacher"], texts["student"], recipe)
    found = _check(text, {role: built.module for role, built in sides.items()})
    if out is None:
        click.echo(text, nl=False)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
        click.echo(f"{out}  next: kdgraph check {out}")
    tell(found)
    if found:
        ctx.exit(1)


@dataclass(frozen=True)
class _Built:
    """A model without weights, and what it was built with."""

    source: str
    args: dict[str, Any]
    module: nn.Module

    @classmethod
    def of(cls, source: str, classes: int | None, trust: Sequence[str]) -> _Built:
        """Builds a classifier; transformers has one for each kind of input.

        Models that are made to continue a text do that, unless classes are asked for.
        """
        from kdgraph.models.load import build_skeleton

        if not source.startswith("hf/"):
            args = {"num_classes": classes} if classes else {}
            return cls(source, args, build_skeleton(source, args, trust=trust))
        args = {"num_labels": classes} if classes else {}
        refused: KDGraphError | None = None
        for head in _HEADS:
            try:
                module = build_skeleton(source, {"head": head, **args}, trust=trust)
                if not classes and _continues(module):
                    head = "causal-lm"
                    module = build_skeleton(source, {"head": head}, trust=trust)
                return cls(source, {"head": head, **args}, module)
            except KDGraphError as error:
                refused = refused or error
        assert refused is not None
        raise refused

    def inputs(self, size: Sequence[int]) -> dict[str, Tensor]:
        """Example tensors of ``forward``, with an attention mask where tokens have one."""
        import torch

        found = example_inputs(self.source, self.module, self.args, size)
        known = inspect.signature(self.module.forward).parameters
        if "input_ids" in found and "attention_mask" in known:
            mask = torch.zeros(found["input_ids"].shape, dtype=torch.int64)
            found = {"input_ids": found["input_ids"], "attention_mask": mask, **found}
        return found

    def arguments(self, size: Sequence[int]) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape without the batch, and type, by argument of ``forward``."""
        return {
            name: (tuple(value.shape[1:]), str(value.dtype).removeprefix("torch."))
            for name, value in self.inputs(size).items()
        }

    def taps(self, size: Sequence[int]) -> list[TapInfo]:
        """Every place of the model, as it runs when it is not trained."""
        from kdgraph.capture import list_taps

        training = self.module.training
        try:
            return list_taps(self.module.eval(), self.inputs(size))
        finally:
            self.module.train(training)


def _continues(module: nn.Module) -> bool:
    """Whether a model of transformers is of a family of decoders, which fill no gaps in a text."""
    from transformers.models.auto import modeling_auto as known

    kind = getattr(getattr(module, "config", None), "model_type", None)
    return (
        kind in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and kind not in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )


def _check(text: str, modules: dict[str, nn.Module]) -> list[Any]:
    """What is wrong with the proposal: nothing, if both models are classifiers of one kind."""
    import kdgraph

    try:
        kdgraph.plan(text, models=modules)
    except KDGraphError as error:
        return list(error.diagnostics)
    return []
