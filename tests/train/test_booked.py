"""Training on a book: the numbers of the teachers without the teachers, or a refusal."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor, nn

import kdgraph
import kdgraph.train
from kdgraph.book import Book
from kdgraph.cli.main import main
from kdgraph.errors import BookError, DataError
from kdgraph.models.load import build_model
from kdgraph.models.weights import save_weights
from kdgraph.train.book import build_book
from kdgraph.train.learner import Learner
from kdgraph.train.result import Result
from tests.train.conftest import NETS

CNN = """\
kdgraph: 1
name: booked
batch:
  image: {shape: [B, 1, 8, 8]}
  label: {shape: [B], dtype: int64, classes: 10}
models:
  teacher:
    source: cifar/resnet14
    args: {in_channels: 1, width: 0.5}
    weights: teacher.safetensors
    taps: {mid: layer2, logits: output}
  student:
    source: cifar/resnet8
    args: {in_channels: 1, width: 0.25}
    taps: {mid: layer2, logits: output}
links:
  mid: {student: student.mid, teacher: teacher.mid, adapter: auto}
signals:
  target: {use: probabilities, of: teacher.logits, tau: 4}
losses:
  label: {use: cross_entropy, student: student.logits, target: label}
  soft: {use: soft_cross_entropy, student: student.logits, target: target, tau: 4}
  hint: {use: hint, link: mid, weight: 0.1}
data: {use: digits, batch_size: 20, limit: 110, augment: {shift: 1}}
book: {views: 2, seed: 3}
train: {epochs: 4, optimizer: {use: SGD, lr: 0.05, momentum: 0.9}, log_every: 1}
"""
MLP = """\
kdgraph: 1
name: booked
batch:
  image: {shape: [B, 1, 8, 8]}
  label: {shape: [B], dtype: int64, classes: 10}
models:
  teacher:
    source: python/small_nets:mlp
    args: {width: 48}
    weights: teacher.safetensors
    taps: {logits: output}
  student: {source: "python/small_nets:mlp", taps: {logits: output}}
losses:
  soft: {use: soft_target, student: student.logits, teacher: teacher.logits}
data: {use: digits, limit: 330}
train: {epochs: 4, optimizer: {use: SGD, lr: 0.1, momentum: 0.9}}
"""
TRUST = ["small_nets"]


def teacher(seed: int = 0) -> nn.Module:
    """A teacher whose batch norms have statistics of their own."""
    torch.manual_seed(seed)
    net = build_model("cifar/resnet14", {"in_channels": 1, "width": 0.5})
    for _ in range(3):
        net(torch.rand(30, 1, 8, 8))
    return net.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the spec of convolutions, its teacher and its book."""
    folder = tmp_path_factory.mktemp("made")
    save_weights(teacher(), folder / "teacher.safetensors")
    (folder / "kd.yaml").write_text(CNN)
    build_book(folder / "kd.yaml", out=folder / "book", device="cpu")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "made"))


def go(folder: Path, out: str, *, book: bool = True, **options: object) -> Result:
    place = folder / "book" if book else None
    return kdgraph.train.run(
        folder / "kd.yaml", out=folder / out, device="cpu", book=place, trust=TRUST, **options  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The total of every step that is trained, as it is done."""
    found: list[Tensor] = []
    step = Learner.training_step

    def watched(self: Learner, batch: dict[str, Tensor], index: int) -> Tensor:
        found.append(step(self, batch, index))
        return found[-1]

    monkeypatch.setattr(Learner, "training_step", watched)
    return found


def check_equal(folder: Path, losses: Sequence[Tensor]) -> None:
    live = go(folder, "live", book=False)
    (folder / "teacher.safetensors").unlink()
    booked = go(folder, "booked")
    assert len(losses) == 40
    first, second = torch.stack([*losses[:20]]), torch.stack([*losses[20:]])
    assert torch.equal(first, second)
    assert live.runs[0].metrics == booked.runs[0].metrics
    assert live.runs[0].val == booked.runs[0].val
    a, b = (load_file(folder / out / "student.safetensors") for out in ("live", "booked"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_twenty_steps_of_convolutions_are_bit_equal(folder: Path, losses: list[Tensor]) -> None:
    check_equal(folder, losses)


def test_twenty_steps_of_linear_layers_are_bit_equal(
    tmp_path: Path, losses: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "kd.yaml").write_text(MLP)
    torch.manual_seed(1)
    net = build_model("python/small_nets:mlp", {"width": 48}, trust=TRUST)
    net(torch.rand(50, 1, 8, 8))
    save_weights(net, tmp_path / "teacher.safetensors")
    build_book(tmp_path / "kd.yaml", out=tmp_path / "book", device="cpu", trust=TRUST)
    check_equal(tmp_path, losses)


def test_no_teacher_is_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def watched(source: str, *args: object, **options: object) -> nn.Module:
        built.append(source)
        return build_model(source, *args, **options)  # type: ignore[arg-type]

    for home in ("networks.build", "train.teacher"):
        monkeypatch.setattr(f"kdgraph.{home}.build_model", watched)
    go(folder, "booked", steps=1)
    assert built == ["cifar/resnet8"]


def test_the_step_holds_nothing_of_the_teacher(made: Path) -> None:
    step = kdgraph.compile(made / "kd.yaml", book=made / "book")
    assert list(step.spec.models) == ["student"]
    assert list(step.models) == ["student"]
    assert not step._frozen
    assert step.spec.batch.keys() == {"image", "label", "target", "teacher_mid"}
    assert not any("teacher" in str(n.target) for n in step.report.graph if n.op == "call_module")
    assert step.book is not None
    ids = torch.tensor([4, 0, 109, *range(20, 37)])
    entries = step.book(ids, 1)
    assert {name: list(value.shape) for name, value in entries.items()} == {
        "target": [20, 10], "teacher_mid": [20, 16, 4, 4]
    }  # fmt: skip
    kdgraph.plan(made / "kd.yaml", book=made / "book")
    with pytest.raises(kdgraph.KDGraphError, match="'target'"):
        step(image=torch.rand(2, 1, 8, 8), label=torch.tensor([1, 2]))


def test_a_teacher_at_hand_is_compared(made: Path) -> None:
    own, other = teacher(), teacher(1)
    step = kdgraph.compile(made / "kd.yaml", book=made / "book", models={"teacher": own})
    assert list(step.spec.models) == ["student"]
    with pytest.raises(BookError, match=r"'weights\.teacher'"):
        kdgraph.compile(made / "kd.yaml", book=made / "book", models={"teacher": other})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("data.augment.shift=2", "transform.augment"),
        ("data.transforms=[{use: rotate}]", "transform.transforms"),
        ("data.normalise={mean: [0.5], std: [0.5]}", "transform.normalise"),
        ("book.views=3", "transform.views"),
        ("book.seed=1", "transform.seed"),
        ("data.limit=60", "data.limit"),
        ("data.split_seed=1", "data.content"),
        ("signals.target.tau=2", "spec.signals.target.tau"),
        ("models.teacher.args.width=1", "subgraph.models.teacher.args"),
        ("models.teacher.precision=bf16", "subgraph.models.teacher.precision"),
        ("models.teacher.taps.mid=layer1", "subgraph.models.teacher.taps.mid"),
        ("book.store={target: {dtype: float16}, teacher.mid: {}}", "spec.store.target.dtype"),
        ("book.store={teacher.logits: {}, teacher.mid: {}}", "teacher.logits"),
    ],
)
def test_a_book_of_something_else_is_refused(made: Path, change: str, field: str) -> None:
    with pytest.raises(BookError) as refused:
        go(made, "refused", set=[change])
    assert all(d.code == "KD763" for d in refused.value.diagnostics)
    assert any(f"'{field}'" in d.message for d in refused.value.diagnostics)
    assert not list((made / "refused").iterdir())  # before anything is trained


def test_a_teacher_in_another_file_is_refused(folder: Path) -> None:
    save_weights(teacher(1), folder / "teacher.safetensors")
    with pytest.raises(BookError, match=r"'weights\.teacher\.file'"):
        go(folder, "refused")


def test_teachers_trained_otherwise_are_refused(tmp_path: Path) -> None:
    text = CNN.replace("    weights: teacher.safetensors\n", "")
    (tmp_path / "kd.yaml").write_text(text.replace("log_every: 1", "teacher: {epochs: 1}"))
    build_book(tmp_path / "kd.yaml", out=tmp_path / "book", device="cpu")
    go(tmp_path, "booked", steps=1)
    assert not (tmp_path / "booked" / "teacher").exists()
    with pytest.raises(BookError, match=r"'weights\.teacher\.training'"):
        go(tmp_path, "refused", set=["train.teacher.epochs=2"])


def test_a_book_of_teachers_that_had_weights_is_not_of_those_that_have_none(
    folder: Path,
) -> None:
    text = CNN.replace("    weights: teacher.safetensors\n", "")
    (folder / "kd.yaml").write_text(text)
    with pytest.raises(BookError, match=r"'weights\.teacher\.file'"):
        go(folder, "refused")
    with pytest.raises(BookError, match=r"'weights\.teacher\.file'"):
        kdgraph.compile(folder / "kd.yaml", book=folder / "book")
    own = kdgraph.compile(folder / "kd.yaml", book=folder / "book", models={"teacher": teacher()})
    assert list(own.spec.models) == ["student"]  # it is the one, wherever its weights are from

    shutil.rmtree(folder / "book")
    trained = ["train.teacher={epochs: 1}"]
    build_book(folder / "kd.yaml", out=folder / "book", device="cpu", set=trained)
    with pytest.raises(BookError, match=r"'weights\.teacher\.training'"):
        go(folder, "refused")


def test_fewer_views_than_the_book_has_are_fine(made: Path) -> None:
    assert go(made, "fewer", steps=1, set=["book.views=1"]).runs[0].steps == 1


def test_there_must_be_a_book(made: Path) -> None:
    with pytest.raises(BookError, match="KD761"):
        kdgraph.compile(made / "kd.yaml", book=made / "none")


def test_a_run_is_taken_up_to_the_same_numbers(folder: Path) -> None:
    (folder / "kd.yaml").write_text(CNN.replace("epochs: 4", "epochs: 2"))
    whole = go(folder, "whole")
    go(folder, "parts", steps=7)
    parts = go(folder, "parts", resume=True)
    assert whole.runs[0].metrics == parts.runs[0].metrics
    a, b = (load_file(folder / out / "student.safetensors") for out in ("whole", "parts"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    with pytest.raises(DataError, match="KD716"):
        go(folder, "parts", resume=True, book=False)


def test_the_student_alone_needs_no_book(made: Path) -> None:
    result = go(made, "compared", steps=2, compare=True)
    assert len(result.alone) == 1
    assert result.teachers == []


def test_the_likeliest_classes_and_half_precision(folder: Path) -> None:
    kept = "book={views: 1, store: {teacher.logits: {top_k: 4}, teacher.mid: {dtype: float16}}}"
    build_book(folder / "kd.yaml", out=folder / "sparse", device="cpu", set=[kept])
    step = kdgraph.compile(folder / "kd.yaml", book=folder / "sparse", set=[kept])
    assert step.book is not None
    rows = step.book(torch.arange(20))
    assert {n: list(v.shape) for n, v in rows.items()} == {
        "teacher_logits_values": [20, 4], "teacher_logits_ids": [20, 4],
        "teacher_logits_tail": [20], "teacher_mid": [20, 16, 4, 4],
    }  # fmt: skip
    out = step(image=torch.rand(20, 1, 8, 8), label=torch.zeros(20, dtype=torch.int64), **rows)
    assert out.loss.isfinite()
    odd = "book={views: 1, store: {target: {top_k: 4}}}"
    softened = "losses.soft={use: soft_target, student: student.logits, teacher: target}"
    with pytest.raises(BookError, match="holds probabilities"):
        build_book(folder / "kd.yaml", out=folder / "odd", device="cpu", set=[odd, softened])


def test_values_that_depend_on_other_rows_are_found_out(folder: Path) -> None:
    class Careless(nn.Module):
        """Takes the mean of the batch away."""

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            value: Tensor = self.net(x)
            return value - value.mean(0)

    from kdgraph.teachers import compile_teachers

    spec = kdgraph.load_spec(folder / "kd.yaml", set="models.teacher.taps.mid=net.layer2")
    module = compile_teachers(spec, ["target"], models={"teacher": Careless(teacher())})
    with pytest.raises(BookError, match="rows beside it"):
        module.look({"image": torch.rand(20, 1, 8, 8)})


def test_the_book_is_of_the_rows_as_they_lie(made: Path) -> None:
    book = Book.open(made / "book")
    assert (len(book), book.views) == (110, 2)
    assert {c.name for c in book.columns} == {"target", "teacher.mid"}


def test_commands_take_a_book(made: Path, tmp_path: Path) -> None:
    spec, book = str(made / "kd.yaml"), ["--book", str(made / "book")]
    for command, out in (("draw", "kd.dot"), ("compile", "build"), ("explain", "")):
        place = ["-o", str(tmp_path / out)] if out else []
        done = CliRunner().invoke(main, [command, spec, *place, *book])
        assert done.exit_code == 0, done.output
    assert "teacher_mid" in (tmp_path / "kd.dot").read_text()
    assert [str(d) for d in kdgraph.check(tmp_path / "build" / "spec.lock.yaml")] == []


def test_stages_on_a_book_are_bit_equal(folder: Path, losses: list[Tensor]) -> None:
    stages = """\
stages:
  - {name: features, epochs: 1, losses: {label: 0, soft: 0}, trainable: {teacher: false}}
  - {name: labels, epochs: 1, losses: {hint: 0}, before: [{use: reinit, modules: student.fc}]}
"""
    (folder / "kd.yaml").write_text(CNN + stages)
    first = go(folder, "live", book=False).runs[0].metrics
    assert go(folder, "booked").runs[0].metrics == first
    assert len(losses) == 20
    assert torch.equal(torch.stack(losses[:10]), torch.stack(losses[10:]))


def test_mixed_rows_take_mixed_values(folder: Path) -> None:
    text = CNN.replace("augment: {shift: 1}", "transforms: [{use: mixup, alpha: 1}]")
    text = text.replace("classes: 10}", """classes: 10}
  label_b: {shape: [B], dtype: int64, classes: 10}
  mix: {shape: [B]}""", 1).replace("seed: 3}", "linear_mix: true}")  # fmt: skip
    (folder / "kd.yaml").write_text(
        text.replace("epochs: 4", "evaluate: {target: label}, epochs: 4")
    )
    shutil.rmtree(folder / "book")
    build_book(folder / "kd.yaml", out=folder / "book", device="cpu")
    assert go(folder, "booked", steps=3).runs[0].steps == 3
    masked = ["signals.there={use: labelled, of: teacher.mid}", "book.store={there: {}}"]
    with pytest.raises(BookError, match="mixup mixes rows, but 'there' is of whole numbers"):
        build_book(folder / "kd.yaml", out=folder / "masks", device="cpu", set=masked)
