"""What a report tells is what was logged, what can be computed by hand, and no more."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F

import kdgraph
from kdgraph.models.load import build_model
from kdgraph.models.weights import save_weights
from kdgraph.train.book import build_book
from kdgraph.train.data._load import eval_loader
from kdgraph.train.data._open import open_data
from kdgraph.train.learner import Learner
from kdgraph.train.report import probe as probes
from kdgraph.train.report.probe import Probe
from tests.train.reported import NETS, TRUST, go, of, spec, staged

Figures = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def nets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "report_nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two edges every second batch is a sample."""
    monkeypatch.setattr(probes, "EVERY", 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, nets: None) -> Path:
    """The folder of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "EVERY", 1)
        go(spec(), folder, compare=True)
    return folder


def told(folder: Path) -> Figures:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def run_of(folder: Path, name: str = "distilled") -> Figures:
    (found,) = (run for run in told(folder)["runs"] if run["name"] == name)
    return found


def points(run: Figures, name: str) -> dict[int, float]:
    curve = run["curves"][name]
    return dict(zip(curve["steps"], curve["values"], strict=True))


def logged(folder: Path) -> dict[str, dict[int, float]]:
    """The curves of a CSV log; rows with a number of epochs hold means."""
    (path,) = folder.rglob("metrics.csv")
    found: dict[str, dict[int, float]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    mean = row["epoch"] and name.startswith("loss")
                    found.setdefault(f"epoch/{name}" if mean else name, {})[int(row["step"])] = (
                        float(value)
                    )
    return found


def test_curves_are_those_of_the_logs(whole: Path) -> None:
    folder, run = whole / "distilled" / "seed-0", run_of(whole)
    rows = logged(folder)
    assert rows.keys() == run["curves"].keys() - {"epoch"}
    for name, row in rows.items():
        assert points(run, name) == row, name
    (events,) = (folder / "tensorboard" / "version_0").glob("events*")
    board = EventAccumulator(str(events)).Reload()
    assert {n.removeprefix("epoch/") for n in rows} | {"epoch"} == {*board.Tags()["scalars"]}
    for name in ("weighted/soft", "steered/losses.soft.tau", "grad_norm/soft", "agreement/teacher"):
        seen = {e.step: e.value for e in board.Scalars(name)}
        assert seen == pytest.approx(points(run, name)), name
    assert {
        "lr",
        "loss/label",
        "grad_cosine/soft",
        "epoch/loss/soft",
        "val/accuracy",
    } <= rows.keys()


def test_weights_follow_their_schedules(whole: Path) -> None:
    run = run_of(whole)
    label, tau = points(run, "weight/label"), points(run, "steered/losses.soft.tau")
    for step in range(1, 13):  # four batches an epoch; the value is that of the step's beginning
        epoch = (step - 1) / 4
        assert label[step] == pytest.approx(1 - 0.9 * min(epoch / 2, 1))
        assert tau[step] == pytest.approx(4 - 2 * epoch / 3)
        parts = [points(run, f"weighted/{edge}")[step] for edge in ("label", "soft")]
        assert sum(parts) == pytest.approx(points(run, "loss")[step], rel=1e-5)
        assert parts[1] == 0.5 * points(run, "loss/soft")[step]
    assert points(run, "epoch")[6] == 1.5


def test_the_learning_rate_is_that_of_the_step(tmp_path: Path) -> None:
    falling = {"use": "StepLR", "step_size": 1, "gamma": 0.5, "interval": "step"}
    go(spec(train={"teacher": None, "epochs": 1, "scheduler": falling}), tmp_path, steps=3)
    assert points(run_of(tmp_path), "lr") == {1: 0.1, 2: 0.05, 3: 0.025}


def flat(value: Tensor, net: nn.Module) -> Tensor:
    found = torch.autograd.grad(value, list(net.parameters()), retain_graph=True)
    return torch.cat([g.flatten() for g in found])


def test_gradients_are_those_of_autograd() -> None:
    """Of edges that were fused into one node, against losses written out on plain models."""
    torch.manual_seed(3)
    nets = {
        n: build_model("python/report_nets:mlp", {}, trust=TRUST) for n in ("teacher", "student")
    }
    batch = {"image": torch.rand(9, 1, 8, 8), "label": torch.arange(9)}
    step = kdgraph.compile(spec(), models=nets).train()
    step.set_progress(epoch=1.5)
    assert any("fused" in str(n.target) for n in step.report.graph)
    torch.manual_seed(5)
    out = step(**batch)
    found = Probe(["label"]).sample(step, out, {"label": 0.325, "soft": 0.5}, scale=64.0)

    torch.manual_seed(5)
    student = nets["student"]
    with torch.no_grad():
        theirs = nets["teacher"].eval()(batch["image"])
    mine = student(batch["image"])
    label = flat(F.cross_entropy(mine, batch["label"]), student)
    soft = F.kl_div((mine / 3).log_softmax(1), (theirs / 3).softmax(1), reduction="batchmean") * 9
    soft = flat(soft, student)
    assert found == {
        "grad_norm/label": pytest.approx(float(label.norm()), rel=1e-5),
        "grad_norm/soft": pytest.approx(float(soft.norm()), rel=1e-5),
        "grad_cosine/soft": pytest.approx(float(F.cosine_similarity(label, soft, 0)), abs=1e-5),
    }


def test_several_label_edges_are_one_direction_by_their_weights() -> None:
    made = spec()
    made["losses"]["second"] = {
        "use": "hint",
        "student": "student.logits",
        "teacher": "teacher.logits",
    }
    torch.manual_seed(3)
    step = kdgraph.compile(made, trust=TRUST).eval()
    out = step(image=torch.rand(9, 1, 8, 8), label=torch.arange(9))
    weights = {"label": 2.0, "second": 0.25}
    found = Probe(list(weights)).sample(step, out, weights)
    parts = {name: flat(out.losses[name], step.student) for name in made["losses"]}
    compass = sum(weights[name] * parts[name] for name in weights)
    for name, part in parts.items():
        cosine = float(F.cosine_similarity(part, compass, 0))  # type: ignore[arg-type]
        assert found[f"grad_cosine/{name}"] == pytest.approx(cosine, abs=1e-5)

    del weights["label"]  # a signal gives it: there is no sum to compare with
    found = Probe(list(parts)[::2]).sample(step, out, weights)
    assert set(found) == {f"grad_norm/{name}" for name in parts}


def test_samples_follow_the_documented_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    probe = Probe(["label"])
    due = [at for at in range(401) if probe.is_due("", 2) | probe.is_due("other", 4)]
    assert due == [0, 64, 128, 192, 256, 320, 384]
    again = Probe(["label"])
    again.take_up(probe.state())
    assert [at for at in range(401, 602) if again.is_due("", 2)] == [448, 512, 576]


def same(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "student.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("net", "how", "samples"),
    [
        ("mlp", {}, 6),
        ("again", {"epochs": 2}, 4),
        ("mlp", {"precision": "bf16-mixed", "epochs": 1}, 2),
        # the first step of an epoch is of three batches, two of which are samples
        ("mlp", {"accumulate": 3, "grad_clip": 0.5, "epochs": 2}, 2),
    ],
)
def test_training_is_the_same_bit_for_bit(
    net: str, how: Figures, samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a backward pass runs a block with dropout and statistics once more."""
    made = spec(train={"teacher": None, **how})
    made["models"]["student"] = {**made["models"]["student"], "source": f"python/report_nets:{net}"}
    go(made, tmp_path / "with")
    assert len(points(run_of(tmp_path / "with"), "grad_norm/soft")) == samples
    monkeypatch.setattr(Probe, "is_due", lambda *_: False)
    go(made, tmp_path / "without")
    assert "grad_norm/soft" not in run_of(tmp_path / "without")["curves"]
    assert same(tmp_path / "with", tmp_path / "without")


def test_students_with_backward_hooks_are_left_alone() -> None:
    step = kdgraph.compile(spec(), trust=TRUST)
    called: list[int] = []
    step.student[1].register_full_backward_hook(lambda *_: called.append(1))
    out = step(image=torch.rand(9, 1, 8, 8), label=torch.arange(9))
    probe = Probe(["label"])
    assert probe.sample(step, out, {}) == {}
    assert not called
    assert "backward hooks" in probe.declined[""]
    assert not probe.is_due("", 1)


class Once(torch.autograd.Function):
    """Refuses a backward pass that keeps the graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise RuntimeError("only once\nand a trace")


def test_a_backward_pass_that_refuses_is_told() -> None:
    step = kdgraph.compile(spec(), trust=TRUST)
    out = step(image=torch.rand(9, 1, 8, 8), label=torch.arange(9))
    losses = {name: Once.apply(value) for name, value in out.losses.items()}
    probe, before = Probe(["label"]), torch.get_rng_state()
    assert probe.sample(step, out._replace(losses=losses), {}) == {}
    assert probe.declined == {"": "only once"}
    assert torch.equal(torch.get_rng_state(), before)


def classes(net: nn.Module, batches: Iterable[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    rows = list(batches)
    with torch.no_grad():
        found = [net.eval()(batch["image"]).argmax(1) for batch in rows]
    return torch.cat(found), torch.cat([batch["label"] for batch in rows])


def loaded(path: Path, **args: Any) -> nn.Module:
    net = build_model("python/report_nets:mlp", args, trust=TRUST)
    net.load_state_dict(load_file(path))
    return net


def test_agreement_and_confusion_by_hand(whole: Path) -> None:
    """The weights of the last epoch are those that were kept."""
    data, splits = open_data(kdgraph.load_spec(spec()), TRUST)
    student = loaded(whole / "student.safetensors")
    teacher = loaded(whole / "teacher" / "weights.safetensors", width=48)
    run = run_of(whole)
    ours, theirs = (classes(net, eval_loader(splits.val, data))[0] for net in (student, teacher))
    assert points(run, "agreement/teacher")[12] == float((ours == theirs).double().mean())
    assert splits.test is not None
    predicted, truth = classes(student, eval_loader(splits.test, data))
    counts = confusion_matrix(truth, predicted, labels=range(10))
    seen = torch.zeros(10, 10, dtype=torch.int64)
    for i, j, count in run["confusion"]["cells"]:
        seen[i, j] = count
    assert seen.tolist() == counts.tolist()
    assert run["confusion"]["part"] == "test"
    final = whole / "distilled" / "seed-0" / "tensorboard" / "final"
    board = EventAccumulator(str(final)).Reload()
    (image,) = board.Images("confusion/test")
    assert (image.width, image.height) == (480, 480)


def test_the_table_is_that_of_the_result(whole: Path) -> None:
    found = json.loads((whole / "result.json").read_text())
    rows = {row["name"]: row for row in told(whole)["table"]["rows"]}
    assert list(rows) == ["teacher", "student alone", "distilled"]
    for name, key in (("student alone", "alone"), ("distilled", "distilled")):
        mean = found["summary"][key]["accuracy"]["mean"]
        assert rows[name]["figures"]["accuracy"]["mean"] == mean
    assert any("distilled minus alone" in note for note in told(whole)["table"]["notes"])


def steady(folder: Path) -> Figures:
    """The report without what is measured in seconds."""
    found = told(folder)
    del found["table"]
    for run in found["runs"]:
        del run["result"]
        run["state"] = ""
    return found


class Killed(BaseException):
    """What no code catches."""


def killing(method: Callable[..., Any], after: int) -> Callable[..., Any]:
    calls: list[int] = []

    def dies(*args: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise Killed
        return method(*args)

    return dies


def test_killed_and_resumed_tells_the_same(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed within the second epoch of the student, and stopped by a limit within the last."""
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "training_step", killing(Learner.training_step, 4 + 6))
        with pytest.raises(Killed):
            go(spec(), tmp_path, compare=True)
    run = run_of(tmp_path)
    assert (run["state"], run["steps"], len(points(run, "loss"))) == ("training", 4, 4)
    assert "report" in (tmp_path / "report.html").read_text(encoding="utf-8")
    go(spec(), tmp_path, compare=True, steps=11, resume=True)
    assert run_of(tmp_path)["state"] == "ended early"
    go(spec(), tmp_path, compare=True, resume=True)
    first, second = steady(tmp_path), steady(whole)
    # the teacher was finished by then: what is told of it is what its checkpoint knows
    for found in (first, second):
        (teacher,) = (run for run in found["runs"] if run["name"] == "teacher")
        found["runs"][found["runs"].index(teacher)] = teacher["curves"]
    assert first == second


def test_stages_tell_what_changed(tmp_path: Path) -> None:
    result = go(staged(), tmp_path, steps=11)
    run = run_of(tmp_path)
    assert [(s["name"], s["after_steps"]) for s in run["stages"]] == [("teach", 0), ("learn", 4)]
    assert run["actions"] == result.runs[0].actions
    assert points(run, "width/student.1") == {1: 24, 9: 9}
    assert "width/student.5" not in run["curves"]  # that never changed
    assert list(points(run, "grad_norm/label")) == [5, 7, 9, 11]
    assert "gradients of edges in teach: not known, the student is not trained here" in run["notes"]
    assert points(run, "weight/own") == {1: 1, 2: 1, 3: 1, 4: 1}
    spans = points(run, "agreement/teacher")
    assert list(spans) == [4, 8]


def test_stages_may_differ_in_the_size_of_their_batches(tmp_path: Path) -> None:
    staged = spec(data={"augment": {}}) | {
        "stages": [
            {"name": "few", "epochs": 1, "batch_size": 25},
            {"name": "many", "epochs": 1},
            {"name": "few_again", "epochs": 1, "batch_size": 25},
        ]
    }
    go(staged, tmp_path)
    run = run_of(tmp_path)
    assert not [note for note in run["notes"] if note.startswith("agreement")]
    assert len(points(run, "agreement/teacher")) == 3


def test_a_teacher_that_refuses_validation_batches_ends_no_training(tmp_path: Path) -> None:
    picky = spec(train={"teacher": None, "epochs": 1})
    picky["models"]["teacher"]["source"] = "python/report_nets:picky"
    result = go(picky, tmp_path)
    assert result.runs[0].finished
    run = run_of(tmp_path)
    assert "agreement with teacher: not known, a size I do not know" in run["notes"]


def test_a_signal_as_the_weight_of_one_of_two_label_edges_is_told(tmp_path: Path) -> None:
    known = {"use": "correct", "of": "student.logits", "label": "label"}
    student = {"student": "student.logits"}
    edges = {
        "again": {"use": "cross_entropy", **student, "target": "label", "weight": "known"},
        "soft": {"use": "soft_target", **student, "teacher": "teacher.logits"},
    }
    made = spec(losses=edges, train={"teacher": None, "epochs": 1}) | {"signals": {"known": known}}
    go(made, tmp_path, steps=1)
    run = run_of(tmp_path)
    assert not [name for name in run["curves"] if name.startswith("grad_cosine")]
    assert any(n.startswith("cosines: not known") and n.endswith("again") for n in run["notes"])


def test_a_sequence_task(tmp_path: Path) -> None:
    go(of("tokens"), tmp_path)
    run = run_of(tmp_path)
    assert sum(count for *_, count in run["confusion"]["cells"]) == 40 * 4  # the fifth is ignored
    shares = points(run, "agreement/teacher")
    assert all(share == round(share * 160) / 160 for share in shares.values())
    assert points(run, "grad_cosine/like")


def test_numbers_have_no_classes(tmp_path: Path) -> None:
    go(of("numbers"), tmp_path)
    run = run_of(tmp_path)
    assert run["confusion"] == {"part": "test", "declined": "no classes are predicted"}
    assert "agreement with teacher: not known, no classes are predicted" in run["notes"]
    assert list(points(run, "val/mean_squared_error")) == [2, 4]
    assert run["label_edges"] == ["task"]
    assert points(run, "grad_cosine/like")


def test_a_metric_that_is_no_number(tmp_path: Path, nets: None) -> None:
    """It is null in both files, in the table too, and JSON has no other word for it."""
    wanted = {"use": "pearson_corr_coef"}
    numbers = of("numbers")
    numbers["data"]["args"]["level"] = 1.0
    numbers["train"] |= {"metrics": ["mean_squared_error", wanted], "epochs": 1}
    result = go(numbers, tmp_path, seeds=2)
    assert math.isnan(result.summary(result.runs)["pearson_corr_coef"].mean)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    embedded = page.partition('id="figures">')[2].partition("</script>")[0]
    for text in ((tmp_path / "report.json").read_text(encoding="utf-8"), embedded):
        figures = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))
        assert figures["runs"][0]["result"]["metrics"]["pearson_corr_coef"] is None
        row = figures["table"]["rows"][-1]["figures"]["pearson_corr_coef"]
        assert row == {"mean": None, "std": None, "count": 2}


def test_with_a_book(tmp_path: Path) -> None:
    made = spec(train={"teacher": None}) | {"book": {"views": 1}}
    torch.manual_seed(0)
    path = tmp_path / "teacher.safetensors"
    save_weights(build_model("python/report_nets:mlp", {"width": 48}, trust=TRUST), path)
    made["models"]["teacher"]["weights"] = str(path)
    build_book(made, out=tmp_path / "book", device="cpu", trust=TRUST)
    go(made, tmp_path / "run", book=tmp_path / "book", steps=4)
    run = run_of(tmp_path / "run")
    assert run["label_edges"] == ["label"]
    assert points(run, "grad_cosine/soft")
    assert not [name for name in run["curves"] if name.startswith("agreement")]
    assert any(note.startswith("agreement: not known") for note in run["notes"])
