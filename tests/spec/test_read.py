from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kdgraph.errors import SpecError
from kdgraph.spec.read import diagnose, load_spec

Errors = Callable[..., list[str]]


def test_a_file_a_text_and_a_mapping_say_the_same(good: str, folder: Path) -> None:
    Path("good.yaml").write_text(good, encoding="utf-8")
    specs = [
        load_spec("good.yaml"),
        load_spec(Path("good.yaml")),
        load_spec(good),
        load_spec(yaml.safe_load(good)),
    ]
    dumps = [s.model_dump() for s in specs]
    assert dumps[0] == dumps[1] == dumps[2] == dumps[3]
    assert specs[0].losses["soft"].tau == 4.0
    assert specs[0].losses["hint"].teacher == "mid.teacher"
    assert specs[0].is_trainable("student")
    assert not specs[0].is_trainable("teacher")
    assert specs[0].inputs("teacher") == "image"


def test_values_know_their_place(good: str, folder: Path) -> None:
    Path("good.yaml").write_text(good, encoding="utf-8")
    spec = load_spec("good.yaml")
    at = {
        "tau": spec.span("losses", "soft", "tau"),
        "not written": spec.span("losses", "soft", "scale"),
        "mapping": spec.span("models", "teacher"),
        "through the link": spec.span("losses", "hint", "student"),
        "key": spec.key_span("models", "student", "taps", "mid"),
        "root": spec.span("stages"),
    }
    assert {k: str(v) for k, v in at.items()} == {
        "tau": "good.yaml:27:75",
        "not written": "good.yaml:27:3",
        "mapping": "good.yaml:9:3",
        "through the link": "good.yaml:28:27",
        "key": "good.yaml:17:12",
        "root": "good.yaml:1:1",
    }


def test_a_mapping_is_told_by_its_keys(good: str, errors: Errors) -> None:
    data = yaml.safe_load(good)
    data["losses"]["soft"]["tau"] = -1
    data["stages"] = [{"nam": "x"}]
    assert errors(data) == [
        "KD113 None losses.soft.tau: expected a number greater than 0, got -1",
        "KD110 None stages[0]: unknown key 'nam'",
    ]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({1, 2}, "KD112"),
        (float("nan"), "KD107"),
        (10**41, "KD107"),
        (b"x", "KD112"),
        ({2.5: 1}, "KD108"),
        ({True: 1}, "KD108"),
        ("\ud800", "KD107"),
        ({"\ud800": 1}, "KD108"),
    ],
)
def test_a_mapping_holds_plain_data(good: str, errors: Errors, value: object, code: str) -> None:
    data = yaml.safe_load(good)
    data["models"]["teacher"]["args"] = {"x": value}
    (said,) = errors(data)
    assert said.startswith(f"{code} None models.teacher.args.x: ")


def test_a_mapping_that_holds_itself(errors: Errors) -> None:
    data: dict[str, object] = {"kdgraph": 1}
    data["models"] = data
    (said,) = errors(data)
    assert said == "KD102 None models: nested deeper than 64 levels"


def test_what_cannot_be_opened(folder: Path, errors: Errors) -> None:
    assert errors("none.yaml") == ["KD100 None there is no file 'none.yaml'"]
    assert errors(folder) == [f"KD100 None '{folder}' is a folder, not a spec"]
    assert errors("nul\0.yaml")[0].startswith("KD100 None cannot read 'nul")
    if os.geteuid() != 0:  # root may read everything
        secret = folder / "secret.yaml"
        secret.touch(mode=0)
        assert errors("secret.yaml") == ["KD100 None no permission to read 'secret.yaml'"]


@pytest.mark.parametrize("source", [None, 5, b"kd.yaml", [{"kdgraph": 1}]])
def test_what_is_no_spec_at_all(errors: Errors, source: object) -> None:
    kind = type(source).__name__
    assert errors(source) == [f"KD100 None a spec is a path, YAML text or a mapping, not {kind}"]


@pytest.mark.parametrize("text", ["", "  ", "\n", "# nothing\n"])
def test_text_of_nothing(errors: Errors, text: str) -> None:
    assert errors(text) == ["KD106 <text>:1:1 this spec is empty"]


def test_text_that_is_no_mapping() -> None:
    helps = [diagnose(text)[1][0].help for text in ("kd.yaml\n", "- a\n- b\n", "5\n")]
    assert helps == ["is there a file 'kd.yaml'?", *2 * ["start it with `kdgraph: 1`"]]


@pytest.mark.parametrize(
    ("value", "message"),
    [("@x", "text cannot start with '@'"), ("{linear:}", "'linear' has no value")],
)
def test_broken_yaml_in_an_override(good: str, errors: Errors, value: str, message: str) -> None:
    (said,) = errors(good, (f"losses.soft.tau={value}",))
    assert said.startswith("KD103 --set:1:1")
    assert said.endswith(message)


def test_one_override_is_no_list_of_letters(good: str) -> None:
    assert load_spec(good, set="losses.soft.tau=2").losses["soft"].tau == 2.0


def test_warnings_for_what_nothing_reads(good: str) -> None:
    text = good.replace("taps: {mid: layer2,", "taps: {low: layer1, mid: layer2,")
    text = text.replace("teacher: target,", "teacher: teacher.logits,")
    text = text.replace("links:\n", "  spare:\n    taps: {logits: output}\n\nlinks:\n", 1)
    spec, found = diagnose(text)
    assert spec is not None
    assert [(d.severity, d.code, d.message) for d in found] == [
        ("warning", "KD210", "nothing reads tap 'student.low'"),
        ("warning", "KD210", "nothing reads model 'spare'"),
        ("warning", "KD210", "nothing reads signal 'target'"),
    ]
    assert load_spec(text).model_dump() == spec.model_dump()


def test_stages_are_read(good: str) -> None:
    spec = load_spec(good + "stages:\n  - {name: first, epochs: 60, losses: {hint: 0}}\n")
    assert spec.stages[0].epochs == 60
    assert spec.stages[0].losses == {"hint": 0}


class TestExtends:
    @pytest.fixture(autouse=True)
    def base(self, good: str, folder: Path) -> None:
        Path("base").mkdir()
        Path("base/good.yaml").write_text(good, encoding="utf-8")

    def write(self, text: str) -> str:
        Path("own.yaml").write_text(text, encoding="utf-8")
        return "own.yaml"

    def test_merges_key_by_key(self) -> None:
        spec = load_spec(self.write("extends: base/good.yaml\nlosses: {soft: {tau: 2}}\n"))
        assert spec.losses["soft"].tau == 2.0
        assert spec.losses["soft"].weight == 0.9
        assert spec.name == "good"
        assert str(spec.span("losses", "soft", "tau")) == "own.yaml:2:22"
        assert str(spec.span("losses", "soft", "weight")) == "base/good.yaml:27:86"

    def test_null_takes_away(self) -> None:
        text = "extends: base/good.yaml\nlosses: {hint: null}\nlinks: null\n"
        spec = load_spec(self.write(text))
        assert list(spec.losses) == ["label", "soft"]
        assert spec.links == {}

    def test_another_use_replaces(self) -> None:
        text = (
            "extends: base/good.yaml\n"
            "losses: {soft: {use: logit_mse, student: student.logits, teacher: target}}\n"
            "models: {teacher: {source: timm/vit_tiny, taps: {mid: blocks.3, logits: output}}}\n"
        )
        spec = load_spec(self.write(text))
        assert spec.losses["soft"].weight == 1.0
        assert spec.models["teacher"].weights is None
        assert spec.models["teacher"].args == {}

    def test_the_same_use_merges(self) -> None:
        text = "extends: base/good.yaml\nlosses: {soft: {use: soft_target, tau: 2}}\n"
        assert load_spec(self.write(text)).losses["soft"].weight == 0.9

    def test_a_schedule_replaces_a_schedule(self) -> None:
        text = (
            "extends: base/good.yaml\n"
            "losses: {hint: {weight: {cosine: [1, 0], iterations: [0, 9]}}}\n"
        )
        assert load_spec(self.write(text)).losses["hint"].weight.kind == "cosine"

    def test_several_in_order(self) -> None:
        Path("base/soft.yaml").write_text("kdgraph: 1\nlosses: {soft: {tau: 8, weight: 0.5}}\n")
        text = "extends: [base/good.yaml, base/soft.yaml]\nlosses: {soft: {weight: 0.25}}\n"
        soft = load_spec(self.write(text)).losses["soft"]
        assert (soft.tau, soft.weight) == (8.0, 0.25)

    def test_weights_start_where_they_were_written(self) -> None:
        Path("base/deep").mkdir()
        Path("base/deep/w.yaml").write_text(
            "kdgraph: 1\nextends: ../good.yaml\nmodels: {student: {weights: s.pt}}\n"
        )
        text = "extends: ../base/deep/w.yaml\nmodels: {teacher: {args: {x: 1}}}\n"
        Path("mine").mkdir()
        Path("mine/own.yaml").write_text(text)
        spec = load_spec("mine/own.yaml")
        assert spec.models["teacher"].weights == "../base/teacher.safetensors"
        assert spec.models["student"].weights == "../base/deep/s.pt"
        assert spec.folder == Path("mine")
        moved = load_spec("mine/own.yaml", ["models.teacher.weights=run/t.pt"])
        assert (moved.folder / str(moved.models["teacher"].weights)).resolve() == Path(
            "run/t.pt"
        ).resolve()

    def test_absolute_weights_stay(self) -> None:
        text = "extends: base/good.yaml\n"
        Path("base/good.yaml").write_text(
            Path("base/good.yaml").read_text().replace("teacher.safetensors", "/data/t.pt")
        )
        assert load_spec(self.write(text)).models["teacher"].weights == "/data/t.pt"

    def test_many_ways_to_one_file(self) -> None:
        """Each file is read once, however often it is named."""
        last = "good.yaml"
        for number in range(20):
            Path(f"base/{number}.yaml").write_text(f"kdgraph: 1\nextends: [{last}, {last}]\n")
            last = f"{number}.yaml"
        assert load_spec(self.write(f"extends: base/{last}\n")).name == "good"

    def test_too_many_files(self, errors: Errors) -> None:
        for number in range(40):
            Path(f"{number}.yaml").write_text(f"kdgraph: 1\nextends: {number + 1}.yaml\n")
        (said,) = errors("0.yaml")
        assert said == "KD120 31.yaml:2:10 more than 32 files extend each other"

    def test_text_extends_from_here(self) -> None:
        assert load_spec("extends: base/good.yaml\nname: mine\n").name == "mine"
        assert load_spec({"extends": "base/good.yaml", "name": "mine"}).name == "mine"


class TestSet:
    def test_values_are_yaml(self, good: str) -> None:
        spec = load_spec(
            good,
            [
                "losses.soft.tau={linear: [4, 1], epochs: [0, 9]}",
                "losses.soft.scale=false",
                "batch.image.shape.3=64",
                "losses.hint=null",
                "name=other name",
                "models.student.taps.low=layer1",
                "description=a=b",
            ],
        )
        assert spec.losses["soft"].tau.kind == "linear"
        assert spec.losses["soft"].scale is False
        assert spec.batch["image"].shape == ("B", 3, 32, 64)
        assert "hint" not in spec.losses
        assert spec.name == "other name"
        assert spec.models["student"].taps["low"] == "layer1"
        assert spec.description == "a=b"
        assert str(spec.span("losses", "soft", "tau")) == "--set:1:17"
        assert str(spec.span("losses", "soft", "scale")) == "--set:2:19"

    def test_the_last_one_counts(self, good: str) -> None:
        assert load_spec(good, ["losses.soft.tau=2", "losses.soft.tau=3"]).losses["soft"].tau == 3.0

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("losses.sfot.tau=2", "KD122 --set:1:8 losses has no 'sfot'"),
            ("losses.soft.tua=2", "KD110 --set:1:13 losses.soft: unknown key 'tua'"),
            ("lossses.soft.tau=2", "KD110 --set:1:1 unknown key 'lossses'"),
            ("losses.sof=null", "KD122 --set:1:8 losses has no 'sof'"),
            ("losses.soft.tau.b=3", "KD122 --set:1:17 losses.soft.tau is a number, not a mapping"),
            ("batch.image.shape.9=3", "KD122 --set:1:19 batch.image.shape is a list of 4 items"),
            ("batch.image.shape.x=3", "KD122 --set:1:19 batch.image.shape is a list of 4 items"),
            ("losses.soft.tau", "KD121 --set:1:1 expected PATH=VALUE"),
            ("losses.soft.tau=", "KD121 --set:1:1 expected PATH=VALUE"),
            ("losses..tau=1", "KD121 --set:1:1 expected PATH=VALUE"),
            ("=1", "KD121 --set:1:1 expected PATH=VALUE"),
            ("losses.soft.tau=[1", "KD103 --set:1:17 this '[' is not closed"),
            ("losses.soft.tau=0", "KD113 --set:1:17 losses.soft.tau: expected a number greater"),
            ("losses.soft.tau=.nan", "KD107 --set:1:17 not a finite number"),
            ("losses.soft.student=student.logit", "KD202 --set:1:21 model 'student' has no tap"),
            ("x" + ".y" * 70 + "=1", "KD102 --set:1:1 nested deeper than 64 levels"),
        ],
    )
    def test_mistakes(self, good: str, errors: Errors, text: str, said: str) -> None:
        (found,) = errors(good, (text,))
        assert found.startswith(said)

    def test_the_number_of_the_override_is_the_line(self, good: str, errors: Errors) -> None:
        (found,) = errors(good, ("name=x", "losses.soft.weight=-1"))
        assert found.startswith("KD113 --set:2:20 ")


def test_every_error_is_one_exception() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("kdgraph: 1\nname: 3\nbatch: 4\n")
    assert [d.code for d in caught.value.diagnostics] == ["KD111", "KD111", "KD112", "KD112"]
    assert "pydantic" not in str(caught.value)
