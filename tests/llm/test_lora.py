"""Students with low-rank adapters: what is trained, what is saved, what goes wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft.tuners.lora import LoraLayer
from torch import nn

import kdgraph
from kdgraph.errors import KDGraphError
from kdgraph.exporter._student import take_student
from kdgraph.models.load import build_model
from tests.llm.tiny import batch, logits_only, pair, shallow

both = pytest.mark.parametrize("family", ["llama", "bert"])


def spec(family: str, **lora: Any) -> dict[str, Any]:
    found = logits_only(pair(family, attention_mask="there"))
    found["models"]["student"]["lora"] = {"r": 2, "alpha": 4, **lora}
    return found


def data() -> dict[str, torch.Tensor]:
    found = batch([8, 5])
    return found | {"there": found["keep"].long()}


def trained(step: kdgraph.DistillModule, steps: int = 3) -> None:
    learn = [p for p in step.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learn, lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        step(**data()).loss.backward()
        optimizer.step()


def adapted(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, LoraLayer)]


@both
def test_adapters_are_trained_and_nothing_else(family: str) -> None:
    torch.manual_seed(0)
    step = kdgraph.compile(spec(family))
    before = {n: p.clone() for n, p in step.named_parameters()}
    trained(step)
    moved = {n for n, p in step.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if "lora_" in n}
    assert moved


@both
def test_the_model_starts_as_it_is(family: str) -> None:
    torch.manual_seed(0)
    plain = build_model(f"hf/{family}", shallow(family))
    tokens = data()["tokens"]
    with torch.no_grad():
        wanted = plain.eval()(input_ids=tokens).logits
        step = kdgraph.compile(spec(family), models={"student": plain})
        torch.testing.assert_close(step.eval().student(input_ids=tokens).logits, wanted)


@both
def test_what_is_saved_loads_into_the_plain_model(family: str, tmp_path: Path) -> None:
    step = kdgraph.compile(spec(family))
    trained(step)
    step.save_student(tmp_path / "student.safetensors")
    plain = build_model(f"hf/{family}", shallow(family), weights=tmp_path / "student.safetensors")
    tokens = data()["tokens"]
    with torch.no_grad():
        found, wanted = (m.eval()(input_ids=tokens).logits for m in (plain, step.student))
    torch.testing.assert_close(found, wanted)
    trained(step, 1)  # the student itself was not merged
    assert any("lora_" in n for n, p in step.named_parameters() if p.grad is not None)


@both
def test_a_state_dict_resumes(family: str) -> None:
    step = kdgraph.compile(spec(family))
    trained(step)
    frozen = {n: m for n, m in step.report.captures.items() if n == "teacher"}
    again = kdgraph.compile(spec(family), models={"teacher": frozen["teacher"].root})
    again.load_state_dict(step.state_dict())
    first, second = (s(**data()) for s in (step, again))
    assert torch.equal(first.loss, second.loss)


def test_a_checkpoint_with_adapters_is_exported_merged(tmp_path: Path) -> None:
    step = kdgraph.compile(spec("bert"))
    trained(step)
    torch.save(step.state_dict(), tmp_path / "last.ckpt")
    taken = take_student(kdgraph.load_spec(spec("bert")), tmp_path / "last.ckpt", ())
    assert not adapted(taken.plain)
    tokens = data()["tokens"]
    with torch.no_grad():
        found, wanted = (m.eval()(input_ids=tokens).logits for m in (taken.plain, step.student))
    torch.testing.assert_close(found, wanted)


def test_targets_are_the_ends_of_paths() -> None:
    found = kdgraph.compile(spec("llama", targets=["o_proj"]))
    assert adapted(found.student) == ["model.layers.0.self_attn.o_proj"]
    found = kdgraph.compile(spec("llama", targets="all-linear"))
    assert len(adapted(found.student)) == 7  # of the layer's linear maps, and not the head


# peft itself is content when it finds one of several
@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["zz"], r"'zz'\n(.*\n)*.*q_proj, k_proj"),
        (["q_proj", "vproj"], r"'vproj'\n(.*\n)*.*'v_proj'"),
        (["self_attn"], r"LlamaAttention(.*\n)*.*not supported(.*\n)*.*q_proj, k_proj"),
    ],
)
def test_a_target_that_is_not_there_names_what_is(targets: list[str], said: str) -> None:
    with pytest.raises(KDGraphError, match=f"KD419.*({said})") as error:
        kdgraph.compile(yaml.safe_dump(spec("llama", targets=targets)))
    assert error.value.diagnostics[0].span is not None


# merged into a weight that is tied, adapters of one layer would change the other
@pytest.mark.parametrize(
    ("family", "target", "other"),
    [
        ("llama", "lm_head", "model.embed_tokens"),
        ("llama", "embed_tokens", "lm_head"),
        ("gpt2", "wte", "lm_head"),
    ],
)
def test_a_tied_weight_takes_no_adapters(family: str, target: str, other: str) -> None:
    written = spec(family, targets=[target])
    args = written["models"]["student"]["args"]
    written["models"]["student"]["args"] = {**args, "tie_word_embeddings": True}
    with pytest.raises(KDGraphError, match=rf"KD419.*{target}.*'{other}' too"):
        kdgraph.compile(written)


@pytest.mark.parametrize(
    ("family", "targets"),
    [("llama", ["lm_head", "embed_tokens"]), ("gpt2", ["c_attn"]), ("gpt2", ["all-linear"])],
)
def test_adapters_beside_other_layers_are_merged(
    family: str, targets: list[str], tmp_path: Path
) -> None:
    step = kdgraph.compile(spec(family, targets=targets))
    trained(step)
    step.save_student(tmp_path / "student.safetensors")
    plain = build_model(f"hf/{family}", shallow(family), weights=tmp_path / "student.safetensors")
    tokens = data()["tokens"]
    with torch.no_grad():
        found, wanted = (m.eval()(input_ids=tokens).logits for m in (plain, step.student))
    torch.testing.assert_close(found, wanted)


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(KDGraphError, match=r"KD414.*peft(.*\n)+.*kdgraph\[llm\]"):
        kdgraph.compile(spec("bert"))


def test_a_check_finds_the_same() -> None:
    assert kdgraph.check(spec("llama")) == []
    (found,) = kdgraph.check(spec("llama", targets=["qproj"]))
    assert found.code == "KD419"


def test_adapted_layers_are_not_quantised() -> None:
    written = spec("llama", targets=["q_proj"])
    action = {"use": "quantize", "modules": "student.model"}
    written["stages"] = [{"name": "all", "epochs": 1, "before": [action]}]
    with pytest.raises(KDGraphError, match=r"KD751.*q_proj.*low-rank adapters"):
        kdgraph.compile(written)
    written["stages"][0]["before"] = [{**action, "keep": "student.model.**.q_proj"}]
    kdgraph.compile(written)


def test_a_fused_head_has_no_adapters() -> None:
    written = spec("llama", targets=["lm_head"])
    del written["losses"]["next"], written["batch"]["label"]
    written["losses"]["soft"]["fused_head"] = True
    with pytest.raises(KDGraphError, match=r"KD306.*lm_head is a Linear with low-rank adapters"):
        kdgraph.compile(written)


def test_a_frozen_model_has_none() -> None:
    wrong = spec("llama")
    wrong["models"]["teacher"]["lora"] = {}
    (found,) = kdgraph.check(wrong)
    assert found.code == "KD218"
    assert "not trained" in found.message
