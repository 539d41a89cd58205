"""``kdgraph export``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdgraph.cli._options import format_option, out_option, overrides, spec_argument
from kdgraph.cli._show import dims, print_json

if TYPE_CHECKING:
    from kdgraph import Exported


@click.command("export")
@spec_argument
@click.argument("checkpoint", type=click.Path(exists=True, path_type=Path))
@out_option("FILE", "The file to write: .safetensors, .pt2 or .onnx.")
@overrides
@format_option
def command(
    spec: str,
    checkpoint: Path,
    out: Path,
    overrides: tuple[str, ...],
    trust: tuple[str, ...],
    form: str,
) -> None:
    r"""Writes the plain student of a training, without teacher and adapters.

    CHECKPOINT is a run's folder, its last.ckpt, a file of weights, or a state dict of the
    compiled module. The student is built from SPEC and must take every weight; what actions put
    into it is folded. The file is used with no kdgraph:

    \b
      .safetensors  weights, for the model as its own library builds it
      .pt2          operators, for torch.export.load
      .onnx         operators, for onnxruntime and others; needs kdgraph[export]

    It is read back in that way and run beside the trained student, in eval mode and float32, on
    batches of two sizes. Where an output differs by more than 1e-5 of its largest value (.onnx:
    1e-4), there is no file and the exit code is 1. Letters of the spec's shapes are free sizes of
    the file wherever the model's code allows; what was fixed is told, and --set fixes others.

    \b
    Examples:
      kdgraph export kd.yaml runs/kd -o student.safetensors
      kdgraph export kd.yaml runs/kd/distilled/seed-0/last.ckpt -o student.onnx
      kdgraph export kd.yaml runs/kd -o student.pt2 --set batch.image.shape=[1,3,32,32]
    """
    import kdgraph

    done = kdgraph.export(spec, checkpoint, out, set=overrides, trust=trust)
    if form == "json":
        print_json(done.as_dict())
        return
    size = f"{done.parameters:,} parameters, {done.bytes:,} bytes"
    click.echo(f"{out}  {done.source}, {size}, from {done.checkpoint}")
    rows = list(_rows(done))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        click.echo(f"  {name:{width}}  {text}")


def _rows(done: Exported) -> Iterator[tuple[str, str]]:
    for kind, values in (("input", done.inputs), ("output", done.outputs)):
        for value in values:
            yield kind, f"{value.name} {dims(value.shape)} {value.dtype}"
    for letter in done.free:
        least = f", from {done.least[letter]} on" if letter in done.least else ""
        most = f", up to {done.most[letter]}" if letter in done.most else ""
        yield "size", f"{letter} is free{least}{most}"
    for letter, number in done.fixed.items():
        why = "torch.export could follow the model's code for that size alone"
        chooses = "--set batch.ENTRY.shape=[...] chooses another"
        yield "size", f"{letter} is {number} and no other: {why}; {chooses}"
    sizes = " and ".join(
        ", ".join(f"{letter}={size}" for letter, size in sizes.items()) or "the sizes of the spec"
        for sizes in done.checked
    )
    yield "read", f"by {done.reader}, at {sizes}"
    yield (
        "check",
        f"largest difference {done.difference:.1e}, {done.relative:.1e} of the largest value "
        f"({done.tolerance:g} is allowed)",
    )
    for note in done.notes:
        yield "note", note
