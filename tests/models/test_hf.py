from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdgraph.errors import ModelError
from kdgraph.models.load import build_model, build_skeleton, build_untrained
from kdgraph.models.weights import save_weights

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
BERT = {**TINY, "vocab_size": 50}
EXAMPLE = ("bert", BERT)
TOKENS = torch.tensor([[1, 2, 3]])


def test_a_model_type_is_built_from_scratch() -> None:
    model = build_model("hf/bert", BERT).eval()
    assert model(input_ids=TOKENS).last_hidden_state.shape == (1, 3, 16)


def test_the_head_is_named_by_its_task() -> None:
    model = build_model("hf/bert", {**BERT, "head": "sequence-classification", "num_labels": 4})
    assert model(input_ids=TOKENS).logits.shape == (1, 4)
    assert type(build_model("hf/bert", {**BERT, "head": "masked-lm"})).__name__ == "BertForMaskedLM"
    vit = {**TINY, "image_size": 32, "patch_size": 8}
    model = build_model("hf/vit", {**vit, "head": "image-classification", "num_labels": 3})
    assert model(pixel_values=torch.randn(2, 3, 32, 32)).logits.shape == (2, 3)


def test_fields_that_no_config_declares_are_taken() -> None:
    model = build_skeleton("hf/bert", {**BERT, "attn_implementation": "eager"})
    assert vars(model)["config"]._attn_implementation == "eager"


def test_a_config_made_of_configs() -> None:
    part = {"model_type": "bert", **BERT}
    args = {"encoder": part, "decoder": {**part, "is_decoder": True, "add_cross_attention": True}}
    model = build_skeleton("hf/encoder-decoder", {**args, "head": "seq2seq-lm"})
    assert model.get_parameter("decoder.bert.embeddings.word_embeddings.weight").shape == (50, 16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_model("hf/bert", {**BERT, "head": "masked-lm"}).save_pretrained(tmp_path)  # type: ignore[operator]
    return tmp_path


def test_a_folder_is_loaded_with_its_weights(folder: Path) -> None:
    args = {"head": "masked-lm"}
    first, second = (build_model(f"hf/{folder}", args) for _ in range(2))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_a_skeleton_of_a_folder_has_its_shapes(folder: Path) -> None:
    args = {"head": "sequence-classification", "num_labels": 6, "dtype": "bfloat16"}
    model = build_skeleton(f"hf/{folder}", args)
    head = model.get_parameter("classifier.weight")
    assert (head.shape, head.dtype) == ((6, 16), torch.bfloat16)


LLAMA = {**TINY, "vocab_size": 50, "head": "causal-lm"}


@pytest.mark.parametrize("build", [build_model, build_skeleton, build_untrained])
def test_weights_are_float32_unless_it_says_otherwise(
    build: Callable[..., torch.nn.Module], tmp_path: Path
) -> None:
    stored: Any = build_model("hf/llama", LLAMA).bfloat16()
    stored.save_pretrained(tmp_path)
    found = build(f"hf/{tmp_path}", {"head": "causal-lm"})
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    if build is build_model:
        for name, tensor in found.state_dict().items():
            assert torch.equal(tensor, stored.state_dict()[name].float()), name
    found = build(f"hf/{tmp_path}", {"head": "causal-lm", "dtype": "bfloat16"})
    assert {p.dtype for p in found.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("from_folder", [False, True])
def test_there_is_no_cache_unless_it_is_asked_for(from_folder: bool, tmp_path: Path) -> None:
    source, args = "hf/llama", LLAMA
    if from_folder:
        build_model(source, args).save_pretrained(tmp_path)  # type: ignore[operator]
        source, args = f"hf/{tmp_path}", {"head": "causal-lm"}
    assert build_model(source, args)(input_ids=TOKENS).past_key_values is None
    cached = build_model(source, {**args, "use_cache": True})
    assert cached(input_ids=TOKENS).past_key_values is not None


def test_a_weights_file_replaces_what_the_folder_holds(folder: Path, tmp_path: Path) -> None:
    args = {"head": "masked-lm"}
    other = build_model("hf/bert", {**BERT, **args})
    file = tmp_path / "other.safetensors"
    save_weights(other, file)
    loaded = build_model(f"hf/{folder}", args, weights=file)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


@pytest.mark.parametrize(
    ("source", "args", "said"),
    [
        ("hf/brt", {}, r"KD411.*\n.*'bert' or 'bart'"),
        ("hf/qqqqq", {}, r"KD411.*\n.*hf/ORG/NAME"),
        ("hf/bert", {"head": "causal-ml"}, r"KD411.*\n.*'causal-lm'"),
        ("hf/vit", {"head": "causal-lm"}, r"KD413.*ViTConfig"),
        ("hf/bert", {"hidden_sise": 16}, r"KD413.*hidden_sise.*\n.*'hidden_size'"),
        ("hf/bert", {"hidden_size": "wide"}, r"KD413.*hidden_size"),
        ("hf/some/one", {"trust_remote_code": True}, "KD412"),
        ("hf/some/one", {"weights_only": False}, "KD412"),
    ],
)
def test_errors(source: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        build_model(source, args)


@pytest.mark.parametrize("source", ["hf/bert", "hf/some/one"])
@pytest.mark.parametrize(
    "args",
    [
        {"use_kernels": True},
        {"allow_all_kernels": True},
        {"attn_implementation": "some/kernel"},
        {"attn_implementation": {"": "eager", "decoder": "paged|some/kernel@main:f"}},
        {"_experts_implementation": "some/kernel"},
        {"decoder": {"attn_implementation": "some/kernel"}},
        {"layers": [{"use_kernels": True}]},
    ],
)
@pytest.mark.parametrize("build", [build_model, build_skeleton])
def test_no_argument_takes_code_from_a_hub(
    source: str, args: dict[str, Any], build: Callable[..., object]
) -> None:
    with pytest.raises(ModelError, match=r"KD412.*(use_k|allow_all_k|_implementation)"):
        build(source, args)


def test_a_skeleton_of_a_model_that_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(ModelError, match=r"KD415.*not on this machine\n.*hf download nobody/none"):
        build_skeleton("hf/nobody/none", {})


def package(folder: Path) -> None:
    """A package that holds a model, and that must not be imported."""
    inside = folder / "some_model" / "files"
    inside.mkdir(parents=True)
    (folder / "some_model" / "__init__.py").write_text("raise RuntimeError('it was run')\n")
    build_model("hf/bert", {**BERT, "head": "masked-lm"}).save_pretrained(inside)  # type: ignore[operator]


def test_the_folder_of_a_package_is_read_and_the_package_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    args = {"head": "masked-lm"}
    packed = build_model("hf/package:some_model/files", args)
    plain = build_model(f"hf/{tmp_path}/some_model/files", args)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, packed.state_dict()[name]), name
    skeleton = build_skeleton("hf/package:some_model/files", args)
    assert skeleton.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("package:some_models/files", r"KD411.*'some_models' is installed"),
        ("package:torhc", r"KD411.*\n.*'torch'"),
        ("package:torch/no/such", r"KD411.*has no folder 'no/such'"),
        ("package:torch.nn", r"KD411.*'torch.nn' is installed"),
        ("package:", r"KD411"),
    ],
)
def test_a_package_that_is_not_there(name: str, said: str) -> None:
    for build in (build_model, build_skeleton):
        with pytest.raises(ModelError, match=said):
            build(f"hf/{name}", {})


def test_a_gguf_file_needs_libraries_of_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r"KD414.*gguf.*\n.*kdgraph\[llm\]"):
        build_model("hf/package:torch", {"gguf_file": "weights.gguf"})
