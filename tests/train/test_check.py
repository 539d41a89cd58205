"""Mistakes in the train block: each is one clear error, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import kdgraph
import kdgraph.train
from kdgraph.capture.taps import parse_tap
from kdgraph.compiler import plans
from kdgraph.errors import DataError, SpecError
from kdgraph.spec.training import Metric, Scheduler
from kdgraph.train.derive import student_alone, teacher_by_itself, to_train
from kdgraph.train.groups import check_groups
from kdgraph.train.metrics import build_metrics
from kdgraph.train.optim import SCHEDULERS, build_scheduler
from kdgraph.train.result import Summary
from kdgraph.train.runner import check_training
from kdgraph.train.score import Score, find_score
from kdgraph.train.scorer import Examiner

SGD = {"use": "SGD", "lr": 0.1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": {"use": "sgd", "lr": 0.1}}, r"KD712.*'sgd'.*\n.*'SGD'"),
        ({"optimizer": {"use": "SGD", "lr": 0.1, "momentun": 0.9}}, r"KD712.*\n.*'momentum'"),
        ({"optimizer": {"use": "SGD", "lr": -1.0}}, "KD712.*-1"),
        ({"optimizer": {"use": "LBFGS"}}, "KD712.*LBFGS"),
        ({"scheduler": {"use": "CosineLR"}}, "KD712.*CosineLR"),
        ({"scheduler": {"use": "StepLR", "step": 3}}, r"KD712.*\n.*'step_size'"),
        ({"scheduler": {"use": "LambdaLR"}}, "KD712.*LambdaLR"),
        ({"teacher": {"epochs": 1, "optimizer": {"use": "Adaw"}}}, r"KD712.*\n.*'Adam"),
        ({"metrics": ["acuracy"]}, r"KD713.*\n.*'accuracy'"),
        ({"metrics": [{"use": "accuracy", "top": 5}]}, "KD713.*top"),
        ({"metrics": ["accuracy", {"use": "accuracy", "top_k": 5}]}, "KD713.*two metrics"),
        ({"evaluate": {"student": "student.logit"}}, r"KD714.*\n.*'student.logits'"),
        ({"evaluate": {"target": "lable"}}, r"KD714.*\n.*'label'"),
    ],
)
def test_mistakes(make_spec: Any, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(kdgraph.KDGraphError, match=said):
        check_training(kdgraph.load_spec(make_spec(train=changes)))


def test_all_mistakes_at_once_with_their_places(make_spec: Any, tmp_path: Path) -> None:
    import yaml

    spec = make_spec(train={"optimizer": {"use": "sgd"}, "metrics": ["acuracy"]})
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    with pytest.raises(kdgraph.KDGraphError) as error:
        check_training(kdgraph.load_spec(path))
    found = error.value.diagnostics
    assert [d.code for d in found] == ["KD712", "KD713"]
    assert all(d.span is not None and d.span.line > 20 for d in found)


@pytest.mark.parametrize("block", ["train", "data"])
def test_a_missing_block(make_spec: Any, tmp_path: Path, block: str) -> None:
    spec = make_spec()
    del spec[block]
    with pytest.raises(kdgraph.KDGraphError, match=f"KD717.*`{block}`"):
        kdgraph.train.run(spec, out=tmp_path)


def test_monitor_must_be_a_metric(make_spec: Any, tmp_path: Path) -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"KD713.*'f1_score'"):
        kdgraph.train.run(
            make_spec(train={"monitor": "f1_score"}), out=tmp_path, trust=["small_nets"]
        )


def test_a_device_that_is_not_there(make_spec: Any, tmp_path: Path) -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"KD710.*'gpux'"):
        kdgraph.train.run(make_spec(), out=tmp_path, trust=["small_nets"], device="gpux")


def test_scheduler_auto_is_the_whole_run() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    for interval, length in (("epoch", 4), ("step", 40)):
        written = Scheduler.model_validate(
            {"use": "CosineAnnealingLR", "T_max": "auto", "interval": interval}
        )
        scheduler = build_scheduler(written, optimizer, epochs=4, steps=40)
        assert isinstance(scheduler, torch.optim.lr_scheduler.CosineAnnealingLR)
        assert scheduler.T_max == length
    assert "ReduceLROnPlateau" in SCHEDULERS


ONE_CYCLE = {"use": "OneCycleLR", "max_lr": 0.1, "total_steps": "auto", "interval": "step"}


def test_one_cycle_may_turn_half_way(make_spec: Any) -> None:
    text = make_spec(train={"scheduler": {**ONE_CYCLE, "pct_start": 0.5}})
    check_training(kdgraph.load_spec(text))


def test_a_cycle_for_which_torch_divides_by_zero_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    written = Scheduler.model_validate({**ONE_CYCLE, "pct_start": 0.1})
    with pytest.raises(kdgraph.KDGraphError, match=r"KD712.*total_steps=10, pct_start=0\.1\) div"):
        build_scheduler(written, optimizer, epochs=1, steps=10)


def test_every_training_is_planned_before_the_first(make_spec: Any, tmp_path: Path) -> None:
    """What is wrong for a student, or for a second teacher, costs no training of the first."""
    student = make_spec()
    student["models"]["student"]["args"] = {"classes": 7}
    second = make_spec()
    second["models"]["second"] = {**second["models"]["teacher"], "args": {"classes": 7}}
    second["losses"]["pairs"] = {
        "use": "similarity", "student": "student.logits", "teacher": "second.logits",
    }  # fmt: skip
    for spec, said in ((student, "KD30.*classes"), (second, "KD304.*logits of 7")):
        with pytest.raises(kdgraph.KDGraphError, match=said):
            kdgraph.train.run(spec, out=tmp_path, device="cpu", trust=["small_nets"])
    assert not list(tmp_path.rglob("*.csv"))


LATE = [
    ({"early_stop": {"patience": 1, "metric": "acuracy"}}, "KD713.*'acuracy'"),
    (
        {"optimizer": {**SGD, "groups": [{"params": "student.4.*", "lr": 1}]}},
        r"KD712.*'student\.4\.\*'",  # of a dropout, which has no parameters
    ),
    ({"optimizer": {**SGD, "groups": [{"params": "links.mid.*", "lr": 1}]}}, "KD712.*links"),
    (
        {"during": [{"use": "prune", "module": "student.5", "start": 8}]},
        r"KD751.*student\.5",  # the classes
    ),
    ({"during": [{"use": "freeze", "modules": "student.9"}]}, r"KD751.*'student\.9'"),
    ({"after": [{"use": "reinit", "modules": "student.9"}]}, r"KD751.*'student\.9'"),
    ({"after": [{"use": "load", "module": "student", "weights": "w.pt"}]}, "KD751.*no weights"),
]


@pytest.mark.parametrize(("last", "said"), LATE)
def test_a_last_stage_is_looked_at_before_the_first(
    make_spec: Any, tmp_path: Path, last: dict[str, Any], said: str
) -> None:
    spec = {**make_spec(), "stages": [{"name": "one"}, {"name": "two", **last}]}
    with pytest.raises(kdgraph.KDGraphError, match=said):
        kdgraph.train.run(spec, out=tmp_path, device="cpu", trust=["small_nets"])
    assert not list(tmp_path.rglob("*.csv"))


def test_groups_of_any_part_of_a_stage_are_fine(make_spec: Any) -> None:
    patterns = ["student.5.*", "*.weight", "links.mid.*", "losses.hint.*"]
    groups = [{"params": pattern, "lr": 0.5} for pattern in patterns]
    text = make_spec(train={"optimizer": {**SGD, "groups": groups}})
    for model in ("student", "teacher"):
        text["models"][model]["taps"]["mid"] = "3"
    text["links"] = {"mid": {"student": "student.mid", "teacher": "teacher.mid"}}
    text["losses"]["hint"] = {"use": "vid", "link": "mid"}
    quantised = {
        "name": "two",
        "before": [{"use": "quantize", "modules": "student"}],
        "losses": {"hint": 0},  # the link is there from before
    }
    spec = kdgraph.load_spec({**text, "stages": [{"name": "one"}, quantised]})
    for plan in plans(spec, trust=["small_nets"]):
        check_groups(spec, plan)
    spec = kdgraph.load_spec({**text, "stages": [quantised, {"name": "one"}]})
    with pytest.raises(DataError, match=r"KD712.*'links\.mid"):
        check_groups(spec, next(plans(spec, trust=["small_nets"])))


def test_the_student_alone_is_planned_too(
    make_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not on this machine yet is left to be found when it is fetched."""
    seen: list[str] = []

    def plans(spec: kdgraph.Spec, **_: Any) -> None:
        seen.append(spec.name)
        alone = len(seen) == 3
        raise SpecError.of("KD301" if alone else "KD415", "none")

    monkeypatch.setattr("kdgraph.train.runner.plans", plans)
    with pytest.raises(SpecError, match="KD301"):
        kdgraph.train.run(
            make_spec(), out=tmp_path, device="cpu", trust=["small_nets"], compare=True
        )
    assert seen == ["small", "small, teacher", "small, student alone"]


def test_metrics_are_those_of_torchmetrics() -> None:
    metrics = build_metrics((Metric(use="accuracy"), Metric(use="f1_score")), 3)
    logits = torch.eye(3)[torch.tensor([0, 0, 2, 2])]
    truth = torch.tensor([0, 1, 2, 2])
    values = {name: float(metric(logits, truth)) for name, metric in metrics.items()}
    assert values["accuracy"] == 0.75
    numbers = build_metrics((Metric(use="mean_squared_error"),), None)["mean_squared_error"]
    assert float(numbers(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))) == 2.0


def test_alone_keeps_what_needs_no_teacher(make_spec: Any) -> None:
    text = make_spec()
    text["losses"]["label"]["smoothing"] = 0.1
    alone = student_alone(kdgraph.load_spec(text))
    assert list(alone.models) == ["student"]
    (edge,) = alone.losses.values()
    assert (edge.weight, edge.smoothing) == (1.0, 0.1)
    del text["losses"]["label"]
    (edge,) = student_alone(kdgraph.load_spec(text)).losses.values()
    assert (edge.use, edge.target) == ("cross_entropy", "label")


def test_teacher_trains_by_its_own_block(make_spec: Any) -> None:
    spec = kdgraph.load_spec(make_spec(train={"teacher": {"epochs": 7}}))
    own = teacher_by_itself(spec, "teacher")
    assert own.is_trainable("teacher")
    assert own.train is not None
    assert (own.train.epochs, own.train.optimizer.use, own.train.teacher) == (7, "SGD", None)


def test_which_teachers_are_trained(make_spec: Any) -> None:
    text = make_spec()
    assert to_train(kdgraph.load_spec(text)) == ["teacher"]
    text["models"]["teacher"]["args"] = {"pretrained": True}
    assert to_train(kdgraph.load_spec(text)) == []
    text["train"]["teacher"]["models"] = ["techer"]
    with pytest.raises(kdgraph.KDGraphError, match=r"KD717.*\n.*'teacher'"):
        to_train(kdgraph.load_spec(text))


def test_a_teacher_with_weights_is_not_trained_from_scratch(make_spec: Any, tmp_path: Path) -> None:
    text = make_spec(train={"teacher": {"epochs": 1, "models": ["other", "teacher"]}})
    text["models"]["other"] = dict(text["models"]["teacher"])
    text["models"]["teacher"]["weights"] = "teacher.safetensors"
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(text))
    with pytest.raises(DataError, match=r"KD718.*'teacher'") as caught:
        to_train(kdgraph.load_spec(file))
    span = caught.value.diagnostics[0].span
    assert span is not None
    assert file.read_text().splitlines()[span.line - 1].strip() == "- teacher"
    del text["train"]["teacher"]["models"]
    assert to_train(kdgraph.load_spec(text)) == ["other"]


def test_score_reaches_for_the_prediction(make_spec: Any) -> None:
    score = find_score(kdgraph.load_spec(make_spec()))
    assert (score.model, score.target, score.classes) == ("student", "label", 10)
    tokens = Score("m", {"x": "ids"}, parse_tap("output.logits"), "label", 4)
    batch = {"ids": torch.zeros(2, 3), "label": torch.zeros(2, 3, dtype=torch.int64)}

    class Tagger(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": torch.zeros(*x.shape, 4)}

    assert tokens.predict(Tagger(), batch).shape == (2, 4, 3)
    with pytest.raises(kdgraph.KDGraphError, match="KD714"):
        Score("m", {"x": "ids"}, parse_tap("output"), "label", 4).predict(Tagger(), batch)


def test_an_examined_model_follows_to_the_device(make_spec: Any) -> None:
    spec = kdgraph.load_spec(make_spec())
    model = torch.nn.Linear(2, 2)
    examiner = Examiner(model, spec, find_score(spec)).to(torch.float64)
    assert model.weight.dtype == torch.float64
    assert examiner.scored() is model


def test_summary_is_of_a_sample() -> None:
    found = Summary.of([1.0, 2.0, 3.0, 4.0])
    assert (found.mean, found.std) == (2.5, pytest.approx(1.2909944))
    assert found.error == pytest.approx(0.6454972)
    assert Summary.of([1.0]).error is None
