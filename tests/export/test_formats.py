"""What a file takes and gives: names, sizes, types, and what is refused."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, load_model
from torch import Tensor, nn

import kdgraph
from kdgraph.errors import ExportError, KDGraphError
from kdgraph.exporter import onnx as onnx_format
from kdgraph.models._lora import add_lora
from kdgraph.models.load import build_model
from kdgraph.spec.adapted import LoraSpec


def spec(batch: dict[str, Any], inputs: Any = None, **student: Any) -> dict[str, Any]:
    """Two models without a source, unless the student is given one."""
    own = {"taps": {"logits": "output"}, **({"input": inputs} if inputs else {})}
    return {
        "kdgraph": 1,
        "name": "alone",
        "batch": batch,
        "models": {"teacher": own, "student": {**own, **student}},
        "losses": {
            "l": {"use": "logit_mse", "student": "student.logits", "teacher": "teacher.logits"}
        },
    }


ROWS = {"x": {"shape": ["B", 4]}}


class Pair(NamedTuple):
    """A result with fields, as libraries have their own."""

    first: Tensor
    second: Tensor


class Several(nn.Module):
    """Several inputs, one looked up, and results in containers, some of which are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor, keep: Tensor, shift: Tensor) -> dict[str, Any]:
        states = self.table(tokens) * keep.unsqueeze(2) + shift.unsqueeze(1)
        return {"logits": self.head(states), "steps": 3, "states": Pair(states, states.mean(1))}


SEVERAL = spec(
    {
        "words": {"shape": ["B", "L"], "dtype": "int64"},
        "there": {"shape": ["B", "L"], "dtype": "bool"},
        "shift": {"shape": ["B", 4]},
    },
    {"tokens": "words", "keep": "there", "shift": "shift"},
)
NAMES = ["logits", "states.0", "states.1"]


def session(path: Path) -> Any:
    return pytest.importorskip("onnxruntime").InferenceSession(path)


needs_onnx = pytest.mark.skipif(not find_spec("onnxscript"), reason="needs onnxscript")


@pytest.fixture(scope="module")
def several() -> Several:
    torch.manual_seed(0)
    return Several().train()


def test_the_student_stays_as_it_is(several: Several, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in several.state_dict().items()}
    for form in (".safetensors", ".pt2"):
        kdgraph.export(SEVERAL, several, tmp_path / f"s{form}")
    assert several.training
    assert all(p.requires_grad for p in several.parameters())
    assert "forward" not in vars(several)
    assert not several.table._forward_pre_hooks
    assert all(torch.equal(before[name], value) for name, value in several.state_dict().items())


def test_a_program_takes_arguments_by_name_and_gives_plain_containers(
    several: Several, tmp_path: Path
) -> None:
    told = kdgraph.export(SEVERAL, several, tmp_path / "s.pt2")
    assert [value.name for value in told.inputs] == ["tokens", "keep", "shift"]
    assert [(v.name, v.shape) for v in told.outputs] == [
        ("logits", ("B", "L", 3)), ("states.0", ("B", "L", 4)), ("states.1", ("B", 4)),
    ]  # fmt: skip
    assert told.free == ("B", "L")
    assert {sizes["L"] for sizes in told.checked} == {128, 64}
    given = {"keep": torch.ones(2, 5, dtype=torch.bool), "shift": torch.rand(2, 4)}
    given["tokens"] = torch.tensor([[0, 1, 2, 3, 6]] * 2)
    result = torch.export.load(tmp_path / "s.pt2").module()(**given)
    assert result.keys() == {"logits", "states"}
    assert type(result["states"]) is tuple
    torch.testing.assert_close(result["logits"], several(**given)["logits"])


@needs_onnx
def test_onnx_has_names_letters_and_weights_beside_it(
    several: Several, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the weights are too large for one file."""
    monkeypatch.setattr(onnx_format, "_LARGEST", 0)
    path = tmp_path / "s.onnx"
    told = kdgraph.export(SEVERAL, several, path)
    sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert sizes.keys() == {"s.onnx", "s.onnx.data"}
    assert told.bytes == sum(sizes.values())
    found = session(path)
    inputs = {value.name: value.shape for value in found.get_inputs()}
    assert inputs == {"tokens": ["B", "L"], "keep": ["B", "L"], "shift": ["B", 4]}
    assert [value.name for value in found.get_outputs()] == NAMES
    assert found.get_outputs()[0].shape == ["B", "L", 3]


TEXT = {"shape": ["B", "L"], "dtype": "int64"}


@needs_onnx
def test_a_language_model_in_onnx(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    args = {
        "head": "sequence-classification", "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 11, "intermediate_size": 8,
        "max_position_embeddings": 24,
    }  # fmt: skip
    named = {"input_ids": "text", "attention_mask": "keep"}
    bert = spec({"text": TEXT, "keep": TEXT}, named, source="hf/bert", args=args)
    student = build_model("hf/bert", args)
    told = kdgraph.export(bert, student, tmp_path / "bert.onnx")
    assert told.most == {"L": 24}  # its table of positions
    assert [(v.name, v.shape) for v in told.outputs] == [("logits", ("B", 2))]
    tokens = torch.tensor([[1, 2, 10, 0, 0]])
    keep = torch.tensor([[1, 1, 1, 0, 0]])
    given = {"input_ids": tokens.numpy(), "attention_mask": keep.numpy()}
    found = session(tmp_path / "bert.onnx").run(None, given)[0]
    with torch.no_grad():
        expected = student.eval()(input_ids=tokens, attention_mask=keep).logits
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def test_adapters_of_lora_are_merged(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    args = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 11, "n_positions": 24}
    args |= {"bos_token_id": 1, "eos_token_id": 2}
    student = build_model("hf/gpt2", {**args, "head": "causal-lm"}).eval()
    add_lora(student, LoraSpec(r=2))
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    gpt = spec({"text": TEXT}, None, source="hf/gpt2", args={**args, "head": "causal-lm"})
    told = kdgraph.export(gpt, student, tmp_path / "s.safetensors")
    assert told.parameters == sum(p.numel() for p in build_model("hf/gpt2", args).parameters())
    plain = build_model("hf/gpt2", {**args, "head": "causal-lm"}).eval()
    load_model(plain, tmp_path / "s.safetensors")
    tokens = torch.tensor([[1, 2, 10, 3]])
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens).logits, student(tokens).logits)
    assert any("lora_B" in name for name in student.state_dict())


class Loop(nn.Module):
    """Goes along its rows, so that no program has a free number of them."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[i] * (i + 1) for i in range(x.shape[0])])


def test_a_size_that_cannot_be_free_is_told(tmp_path: Path) -> None:
    told = kdgraph.export(spec(ROWS), Loop(), tmp_path / "s.pt2")
    assert told.free == ()
    assert told.fixed == {"B": 1}
    assert told.inputs[0].shape == (1, 4)
    assert told.checked == ({"B": 1},)
    chosen = kdgraph.export(spec(ROWS), Loop(), tmp_path / "s.pt2", set=["batch.x.shape=[3, 4]"])
    assert chosen.fixed == {}
    assert torch.export.load(tmp_path / "s.pt2").module()(torch.ones(3, 4)).sum() == 4 * 6


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> int:
        return len(x)


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("not today")


class Pairs(nn.Module):
    """Compares rows, of which there have to be two."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] < 2:
            raise ValueError("one row")
        return x - x.flip(0)


def test_a_student_that_takes_no_single_row(tmp_path: Path) -> None:
    told = kdgraph.export(spec(ROWS), Pairs(), tmp_path / "s.pt2")
    assert told.checked == ({"B": 2}, {"B": 5})


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo: object) -> None:
        raise RuntimeError("no copies")


def test_a_student_that_cannot_be_copied(tmp_path: Path) -> None:
    with pytest.raises(KDGraphError, match="cannot be copied: RuntimeError: no copies"):
        kdgraph.export(spec(ROWS), Uncopied(4, 3), tmp_path / "s.pt2")


class Nan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0 * 0


@pytest.mark.parametrize(
    ("student", "code", "said"),
    [
        (Branch(), "KD781", "torch.export cannot follow"),
        (Nothing(), "KD783", "gives no tensor"),
        (Broken(), "KD783", "not today"),
        (Nan(), "KD783", "no finite number"),
    ],
)
def test_students_that_cannot_be_exported(
    student: nn.Module, code: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=said) as caught:
        kdgraph.export(spec(ROWS), student, tmp_path / "s.pt2")
    assert caught.value.diagnostics[0].code == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_keep_their_type_and_programs_are_float(dtype: torch.dtype, tmp_path: Path) -> None:
    student = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).to(dtype)
    told = kdgraph.export(spec(ROWS), student, tmp_path / "s.safetensors")
    written = load_file(tmp_path / "s.safetensors")
    assert all(torch.equal(value, written[name]) for name, value in student.state_dict().items())
    assert {value.dtype for value in written.values()} == {dtype}
    assert told.relative == 0
    kdgraph.export(spec(ROWS), student, tmp_path / "s.pt2")
    result = torch.export.load(tmp_path / "s.pt2").module()(torch.ones(2, 4))
    assert result.dtype == torch.float32
    assert student[0].weight.dtype == dtype


def test_weights_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    """The spec's source is another network than the one that is handed over."""
    other = spec({"x": {"shape": ["B", 3, 8, 8]}}, source="cifar/resnet8", args={"width": 0.25})
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(ExportError, match=r"no cifar/resnet8 any more.* missing") as caught:
        kdgraph.export(other, student, tmp_path / "s.safetensors")
    assert caught.value.diagnostics[0].help == ".pt2 and .onnx files hold what it has become"
    assert list(tmp_path.iterdir()) == []


def test_suffixes_and_folders(tmp_path: Path) -> None:
    with pytest.raises(KDGraphError, match=r"KD780.*\n.*did you mean '\.onnx'"):
        kdgraph.export(spec(ROWS), nn.Linear(4, 3), tmp_path / "s.onx")
    with pytest.raises(KDGraphError, match=r"KD415.*there is no folder"):
        kdgraph.export(spec(ROWS), nn.Linear(4, 3), tmp_path / "no" / "s.pt2")
    with pytest.raises(KDGraphError, match=r"KD415.*holds none of"):
        kdgraph.export(spec(ROWS), tmp_path / "nowhere", tmp_path / "s.pt2")


@needs_onnx
def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"KD414.*onnxruntime") as caught:
        kdgraph.export(spec(ROWS), nn.Linear(4, 3), tmp_path / "s.onnx")
    assert caught.value.diagnostics[0].help == "pip install 'kdgraph[export]'"
