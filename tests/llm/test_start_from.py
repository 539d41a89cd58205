"""Students that start as some layers of their teacher."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml

import kdgraph
from kdgraph.errors import KDGraphError
from kdgraph.models.load import build_model
from kdgraph.train.derive import student_alone
from tests.llm.tiny import LAYERS, logits_only, pair


def spec(family: str, *layers: int, **start: Any) -> dict[str, Any]:
    found = logits_only(pair(family))
    found["models"]["student"]["start_from"] = {
        "model": "teacher", "layers": {LAYERS[family]: list(layers)}, **start
    }  # fmt: skip
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_layers_start_as_those_that_are_named(family: str) -> None:
    written = spec(family, 1)
    step = kdgraph.compile(written)
    teacher = step.report.captures["teacher"].root.state_dict()
    path = LAYERS[family]
    for name, value in step.student.state_dict().items():
        assert torch.equal(value, teacher[name.replace(f"{path}.0.", f"{path}.1.")]), name
    values = {value.data_ptr() for value in teacher.values()}
    assert values.isdisjoint(v.data_ptr() for v in step.student.state_dict().values())


@pytest.mark.parametrize("tied", ["teacher", "student"])
def test_tied_weights_start_from_tied_weights_alone(tied: str) -> None:
    written = spec("llama", 1)
    model = written["models"][tied]
    model["args"] = {**model["args"], "tie_word_embeddings": True}
    found = kdgraph.check(written)
    if tied == "student":  # embedding and head of the teacher cannot both be in one tensor
        assert [d.code for d in found] == ["KD416"]
        assert "lm_head.weight" in found[0].message
        with pytest.raises(KDGraphError, match="tied in the model alone"):
            kdgraph.compile(written)
        return
    assert list(found) == []
    student = kdgraph.compile(written).student
    head, embedding = (
        student.get_parameter(f"{n}.weight") for n in ("lm_head", "model.embed_tokens")
    )
    assert torch.equal(head, embedding)
    assert head is not embedding


def test_without_layers_it_is_a_copy() -> None:
    written = spec("llama", layers={})
    written["models"]["student"]["args"] = written["models"]["teacher"]["args"]
    step = kdgraph.compile(written)
    teacher = step.report.captures["teacher"].root.state_dict()
    for name, value in step.student.state_dict().items():
        assert torch.equal(value, teacher[name]), name


def test_a_student_that_is_handed_over_stays_as_it_is() -> None:
    written = spec("llama", 1)
    own = build_model("hf/llama", written["models"]["student"]["args"])
    before = {n: p.clone() for n, p in own.state_dict().items()}
    kdgraph.compile(written, models={"student": own})
    assert all(torch.equal(own.state_dict()[n], p) for n, p in before.items())


def test_adapters_come_after() -> None:
    written = spec("llama", 1)
    written["models"]["student"]["lora"] = {"r": 2, "targets": ["q_proj"]}
    step = kdgraph.compile(written)
    teacher = step.report.captures["teacher"].root.get_parameter(
        "model.layers.1.self_attn.q_proj.weight"
    )
    found = step.student.get_parameter("model.layers.0.self_attn.q_proj.base_layer.weight")
    assert torch.equal(found, teacher)


def test_the_order_of_models_does_not_matter() -> None:
    written = spec("llama", 1)
    written["models"] = dict(reversed(written["models"].items()))
    step = kdgraph.compile(written)
    teacher = step.report.captures["teacher"].root.get_parameter("lm_head.weight")
    assert torch.equal(step.student.get_parameter("lm_head.weight"), teacher)


@pytest.mark.parametrize(
    ("changed", "code", "said", "help"),
    [
        ({"layers": {"model.layer": [0]}}, "KD416", "no list of layers", "'model.layers'"),
        (
            {"layers": {"model.layers": [0, 1]}},
            "KD416",
            "the model has 1, `start_from` names 2",
            "for each",
        ),
        ({"layers": {"model.layers": [2]}}, "KD416", "no 2", None),
        ({"layers": {}}, "KD416", "does not fit the model: 0 missing, 9 unexpected", "another"),
        ({"model": "teecher"}, "KD202", "no model 'teecher'", "'teacher'"),
        ({"model": "student"}, "KD218", "from itself", None),
    ],
)
def test_what_does_not_fit_is_said(
    changed: dict[str, Any], code: str, said: str, help: str | None
) -> None:
    written = spec("llama", **{"layers": {"model.layers": [1]}, **changed})
    (found,) = kdgraph.check(yaml.safe_dump(written))
    assert (found.code, said in found.message) == (code, True), found
    assert help is None or help in str(found.help)
    assert found.span is not None


def test_a_check_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *a, **_: loaded.append(a))
    assert list(kdgraph.check(spec("llama", 1))) == []
    assert loaded == []
    kdgraph.compile(spec("llama", 1))
    assert loaded


def test_it_goes_without_weights_of_its_own() -> None:
    written = spec("llama", 1)
    written["models"]["student"]["weights"] = "some.safetensors"
    assert [d.code for d in kdgraph.check(written)][:1] == ["KD218"]


def test_without_the_teacher_it_starts_alike() -> None:
    written = spec("llama", 1)
    written["data"], written["train"] = {"use": "text"}, {
        "epochs": 1, "optimizer": {"use": "SGD", "lr": 0.1}
    }  # fmt: skip
    alone = student_alone(kdgraph.load_spec(written))
    assert list(alone.models) == ["student"]
    torch.manual_seed(0)
    student = kdgraph.compile(alone).student  # it builds the teacher for the time being
    assert student.get_parameter("lm_head.weight").std() > 0
    assert alone.written("teacher").args == written["models"]["teacher"]["args"]
