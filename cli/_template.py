"""The text of a new spec, with comments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdgraph.cli._pairing import Pair, embedding, output, pairs

if TYPE_CHECKING:
    from kdgraph.capture import TapInfo


@dataclass(frozen=True)
class Side:
    """What is known about one of the two models.

    Attributes:
        source: ``PREFIX/NAME``.
        args: what it is built with.
        taps: every place in it.
        inputs: shape without the batch, and type, by argument of its forward.
    """

    source: str
    args: Mapping[str, Any]
    taps: Sequence[TapInfo]
    inputs: Mapping[str, tuple[tuple[int, ...], str]]

    @property
    def tokens(self) -> bool:
        """Whether it reads token ids."""
        return "input_ids" in self.inputs

    @property
    def continues(self) -> bool:
        """Whether it says which token comes next, at each token."""
        return self.tokens and len(output(self.taps).shape) == 3


def spec_text(teacher: Side, student: Side, recipe: str) -> str:
    """YAML of a spec for two models, by a recipe: ``logits``, ``hints`` or ``relations``."""
    found = pairs(student.taps, teacher.taps) if recipe == "hints" else []
    own = {"teacher": [p.teacher.path for p in found], "student": [p.student.path for p in found]}
    parts = [
        f"# {student.source} learns from {teacher.source}. `kdgraph check` says whether it can.\n"
        f"kdgraph: 1\nname: {_name(student)}_from_{_name(teacher)}\n",
        _batch(teacher, student),
        "models:\n" + "".join(
            _model(role, side, recipe, own[role])
            for role, side in (("teacher", teacher), ("student", student))
        ),
        _signals(found),
        _links(found, recipe),
        _losses(found, recipe, student),
        _training(teacher),
    ]  # fmt: skip
    return "\n".join(p for p in parts if p)


def _name(side: Side) -> str:
    """The last part of a source, in letters that any name may have."""
    last = side.source.rpartition("/")[2]
    return "".join(c if c.isalnum() else "_" for c in last)


def _batch(teacher: Side, student: Side) -> str:
    """The entries that the models read, and the labels."""
    entries = {**_entries(student), **_entries(teacher)}
    lines = ["batch:  # one training batch; B and other letters are free sizes"]
    for name, (shape, dtype) in entries.items():
        kind = "" if dtype == "float32" else f", dtype: {dtype}"
        lines.append(f"  {name}: {{shape: [{', '.join(['B', *shape])}]{kind}}}")
    logits = output(student.taps).shape
    sizes = [_letter(student, s) for s in (logits[1:-1] if len(logits) == 3 else logits[2:])]
    classes = logits[-1] if len(logits) == 3 else logits[1]
    label = f"{{shape: [{', '.join(['B', *sizes])}], dtype: int64, classes: {classes}}}"
    return "\n".join([*lines, f"  label: {label}", ""])


def _entries(side: Side) -> dict[str, tuple[list[str], str]]:
    """Batch entries of a model: an image is called so, other things as its forward does.

    What a language model reads has the names of the columns of the data ``tokens``.
    """
    found = {}
    columns = {"input_ids": "tokens", "attention_mask": "mask"} if side.continues else {}
    for argument, (shape, dtype) in side.inputs.items():
        image = len(shape) == 3 and dtype == "float32"
        name = "image" if image else columns.get(argument, argument)
        found[name] = ([_letter(side, s) for s in shape], dtype)
    return found


def _letter(side: Side, size: int) -> str:
    """``L`` for the length of a text, which is free."""
    return "L" if side.tokens and size == next(iter(side.inputs["input_ids"][0])) else str(size)


def _model(role: str, side: Side, recipe: str, tapped: Sequence[str]) -> str:
    lines = [f"  {role}:", f"    source: {side.source}"]
    args = dict(side.args)
    if role == "teacher":
        lines.append("    # weights: teacher.safetensors  # your trained teacher")
        if "num_classes" not in args and side.source.startswith("timm/"):
            args["pretrained"] = True
        if "num_classes" not in args and side.source.startswith("torchvision/"):
            args["weights"] = "DEFAULT"
    if args:
        written = ", ".join(f"{k}: {str(v).lower() if v is True else v}" for k, v in args.items())
        lines.append(f"    args: {{{written}}}")
    if len(side.inputs) > 1 or side.tokens:
        names = zip(side.inputs, _entries(side), strict=True)
        lines.append(f"    input: {{{', '.join(f'{a}: {e}' for a, e in names)}}}")
    lines.append(f"    taps:  # `kdgraph taps {side.source}` lists all")
    lines += [f"      mid{i}: {path}" for i, path in enumerate(tapped, start=1)]
    logits = output(side.taps)
    if recipe == "relations":
        lines.append(f"      embedding: {embedding(side.taps, logits)}")
    if recipe != "relations" or role == "student":
        lines.append(f"      logits: {logits.path}")
    return "\n".join([*lines, ""])


def _signals(found: Sequence[Pair]) -> str:
    lines = [
        f"  map{i}: {{use: tokens_to_map, of: teacher.mid{i}, skip: {pair.skip}}}"
        for i, pair in enumerate(found, start=1)
        if pair.skip is not None
    ]
    head = "signals:  # tensors that are worked out of others; here tokens laid out as a map"
    return "\n".join([head, *lines, ""]) if lines else ""


def _links(found: Sequence[Pair], recipe: str) -> str:
    if recipe != "hints":
        return ""
    if not found:
        return "# No two places of these models match; name taps of both, and pair them in links.\n"
    lines = ["links:  # the adapter makes the student's shape fit, and is trained with it"]
    for i, pair in enumerate(found, start=1):
        teacher = f"teacher.mid{i}" if pair.skip is None else f"map{i}"
        sides = f"student: student.mid{i}, teacher: {teacher}"
        lines.append(f"  mid{i}: {{{sides}, adapter: auto}}  # {pair.why}")
    return "\n".join([*lines, ""])


def _losses(found: Sequence[Pair], recipe: str, student: Side) -> str:
    masked = student.continues and "attention_mask" in student.inputs
    where, tau = (", mask: mask" if masked else ""), (1 if student.continues else 4)
    hard = "0.1" if recipe != "relations" else "1"
    lines = [
        "losses:  # the total is their weighted sum; `kdgraph list losses` shows more",
        f"  label: {{use: cross_entropy, student: student.logits, target: label, weight: {hard}}}",
    ]
    if recipe == "relations":
        sides = "student: student.embedding, teacher: teacher.embedding"
        lines.append(f"  relation: {{use: relation, {sides}, distance: 25, angle: 50, weight: 1}}")
    else:
        sides = "student: student.logits, teacher: teacher.logits"
        lines.append(f"  soft: {{use: soft_target, {sides}, tau: {tau}{where}, weight: 0.9}}")
    lines += [
        f"  hint{i}: {{use: hint, link: mid{i}{where}, weight: 1}}"
        for i in range(1, len(found) + 1)
    ]
    return "\n".join([*lines, ""])


def _training(teacher: Side) -> str:
    """What ``kdgraph train`` needs, as comments, because only the user knows the data."""
    if teacher.continues:
        name = teacher.source.removeprefix("hf/")
        own = f"tokenizer: {name}, length: 512, batch_size: 8"
        data = f"data: {{use: tokens, path: my/texts, {own}}}"
        optimizer = "{use: AdamW, lr: 5.0e-5}"
    elif teacher.tokens:
        columns = ", ".join(f"{n}: {n}" for n in (*teacher.inputs, "label"))
        data = f"data: {{use: hf, path: my/dataset, columns: {{{columns}}}, batch_size: 32}}"
        optimizer = "{use: AdamW, lr: 5.0e-5}"
    else:
        shape = next(iter(teacher.inputs.values()))[0]
        data = f"data: {{use: imagefolder, path: my/images, size: {shape[-1]}, batch_size: 64}}"
        optimizer = "{use: SGD, lr: 0.05, momentum: 0.9, weight_decay: 1.0e-4}"
    return "\n".join([
        "# For `kdgraph train`; not needed where your own loop steps the compiled module.",
        f"# {data}",
        "# train:",
        "#   epochs: 30",
        f"#   optimizer: {optimizer}",
        "#   scheduler: {use: CosineAnnealingLR, T_max: auto}",
        "",
    ])  # fmt: skip
