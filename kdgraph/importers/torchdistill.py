"""Configurations of torchdistill."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from kdgraph.errors import Diagnostic, SpecError, near
from kdgraph.importers._draft import Draft, Line, word
from kdgraph.importers._tagged import At, read_tagged
from kdgraph.importers._torchdistill.data import Rows, read_data
from kdgraph.importers._torchdistill.known import Network
from kdgraph.importers._torchdistill.models import read_models
from kdgraph.importers._torchdistill.schedule import write_training
from kdgraph.importers._torchdistill.stages import Stage, read_stage
from kdgraph.importers._values import Cannot
from kdgraph.importers._write import spec_text
from kdgraph.importers.base import Carried, Imported, Importer, Left, register_importer
from kdgraph.spec.read import diagnose
from kdgraph.spec.sources import read_file

_HELPERS = ("name", "experiment")  # keys whose values other lines refer to


@register_importer
class Torchdistill(Importer):
    """YAML files of torchdistill (Matsubara 2021, arXiv 2011.12913), of earlier versions too.

    Its constructor tags are read as words: ``!join`` is worked out, what others would import or
    call is not.
    """

    name: ClassVar[str] = "torchdistill"

    def read(self, path: str) -> Imported:
        """The spec that a configuration stands for.

        Raises:
            SpecError: KD100 to KD109 for a file that is not plain YAML; KD123 where it is no
                configuration of torchdistill; KD124 where a value is of the wrong kind; KD125
                where nothing of it can be an edge.
        """
        try:
            return self._read(read_tagged(read_file(path), path), path)
        except Cannot as why:  # where a spec cannot do without the value
            raise SpecError.of("KD124", str(why), span=why.span) from None

    def _read(self, root: At, path: str) -> Imported:
        models, train = _sections(root)
        draft = Draft(name=word(Path(path).stem))
        networks = read_models(models, draft)
        if "student" not in networks:
            raise SpecError.of(
                "KD123", "there is neither a 'student_model' nor a 'model'", span=models.span
            )
        stages = _stages(train, networks, draft)
        if not draft.losses:
            raise _nothing(train, draft)
        rows = read_data(root.get("datasets"), *stages[0].data, draft)
        _batch(networks, rows, draft)
        _rest(root, train, draft)
        draft.prune()
        write_training(stages, train, rows, draft)
        draft.settle(root)
        _header(path, draft, taught="teacher" in networks)
        text = spec_text(draft)
        _, found = diagnose(text)
        return Imported(
            text,
            tuple(sorted(draft.carried, key=_line)),
            tuple(sorted(dict.fromkeys(draft.left), key=_line)),
            tuple(d for d in found if d.severity == "error"),
        )


def _line(entry: Carried | Left) -> int:
    return entry.span.line if entry.span is not None else 0


def _sections(root: At) -> tuple[At, At]:
    """``models`` and ``train``, without which this is no configuration of torchdistill."""
    if not isinstance(root.node.value, dict):
        raise SpecError.of("KD123", "this is no configuration of torchdistill", span=root.span)
    root.ledger.take(root.path)
    if root.get("kdgraph") is not None:
        raise SpecError.of("KD123", "this is a spec of kdgraph already", span=root.span)
    found = []
    for name in ("models", "train"):
        at = root.get(name)
        if at is None or not isinstance(at.node.value, dict):
            keys = [key for key, _ in root.items()]
            help = near(name, [k for k in keys if k not in ("models", "train")])
            raise SpecError.of(
                "KD123",
                f"this is no configuration of torchdistill: it has no section {name!r}",
                span=at.span if at is not None else root.span,
                help=help,
            )
        at.ledger.take(at.path)
        found.append(at)
    return found[0], found[1]


def _stages(train: At, networks: dict[str, Network], draft: Draft) -> list[Stage]:
    """All stages in order; one where ``train`` has none."""
    if train.get("stage1") is None:
        return [read_stage("train", train, None, networks, draft)]
    found: list[Stage] = []
    for name, at in train.items():
        if name.startswith("stage") and not at.is_empty:
            before = found[-1] if found else None
            found.append(read_stage(name, at, before, networks, draft))
    return found


def _nothing(train: At, draft: Draft) -> SpecError:
    """None of the losses has an edge; why is said of each."""
    message = "no loss of this file can be an edge of a spec"
    whys = [Diagnostic("KD125", f"{left.what}: {left.why}", left.span) for left in draft.lost]
    return SpecError([Diagnostic("KD125", message, train.span), *whys])


def _batch(networks: dict[str, Network], rows: Rows, draft: Draft) -> None:
    """What the models read, and labels."""
    student = networks["student"]
    classes = next((n.classes for n in networks.values() if n.classes is not None), None)
    if classes is None and student.source and student.source.startswith("torchvision/"):
        classes = 1000
    label: dict[str, Any] = {"shape": ["B"], "dtype": "int64"}
    if any(n.kind == "text" for n in networks.values()):
        names = {name for m in draft.models.values() for name in (m.input or {}).values()}
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            if name in names:
                draft.batch[name] = Line({"shape": ["B", "L"], "dtype": "int64"})
    else:
        size = rows.size or (32 if student.is_cifar else None)
        remark = [] if size else ["the size of the images is not written in the file"]
        square = [size, size] if size else ["H", "W"]
        draft.batch["image"] = Line({"shape": ["B", rows.channels, *square]}, remark)
        if student.kind == "map":
            label["shape"] = ["B", *square]
    if classes is not None:
        label["classes"] = classes
    draft.batch["label"] = Line(label)


def _rest(root: At, train: At, draft: Draft) -> None:
    """Sections that a spec has nothing for."""
    for name, what, why in (
        ("test", "how test rows are loaded", "`kdgraph train` tests on the data set's own part"),
        ("private", "predictions for a benchmark", "they are nothing a spec has"),
        ("dependencies", "modules of code", "torchdistill imports them; nothing is imported here"),
    ):
        if (at := root.get(name)) is not None:
            draft.leave(at, what, why)
    for section in (root, train):
        for name, at in section.items():
            if name.startswith("_") or name in _HELPERS:
                draft.carry(at, "nothing: other lines refer to it", whole=True)


def _shown(path: str) -> str:
    """The file's name; bytes of it that are no text are replaced."""
    return Path(path).name.encode("utf-8", "replace").decode()


def _header(path: str, draft: Draft, *, taught: bool) -> None:
    draft.header = [
        f"From {_shown(path)}, a configuration of torchdistill, by `kdgraph import`.",
        "Losses give the numbers that torchdistill gives, but where a comment says otherwise.",
    ]
    if draft.lost:
        draft.header.append(f"Without an edge here: {', '.join(left.what for left in draft.lost)}.")
    if taught and "teacher" not in draft.models:
        draft.header.append("No edge reads the teacher: what is left learns from labels alone.")
