from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

import kdgraph
from kdgraph.errors import Diagnostic

Run = Callable[..., Result]
RECIPES = ("logits", "hints", "relations")


def propose(run: Run, teacher: str, student: str, out: Path, *more: str) -> dict[str, Any]:
    """Runs ``init`` and checks what it wrote; the spec as a mapping."""
    result = run("init", "--teacher", teacher, "--student", student, "-o", out, *more)
    assert result.exit_code == 0, result.output
    found: list[Diagnostic] = kdgraph.check(out, shapes=False)  # init has checked the shapes
    assert found == []
    written: dict[str, Any] = yaml.safe_load(out.read_text())
    return written


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_checks_at_once(run: Run, tmp_path: Path, recipe: str) -> None:
    pytest.importorskip("timm")
    out = tmp_path / "kd.yaml"
    spec = propose(
        run, "timm/resnet18", "timm/mobilenetv3_small_050", out,
        "--recipe", recipe, "--classes", "7", "--input", "3x64x64",
    )  # fmt: skip
    assert kdgraph.check(out) == []
    assert spec["batch"]["image"] == {"shape": ["B", 3, 64, 64]}
    assert spec["batch"]["label"]["classes"] == 7
    if recipe == "hints":
        places = [
            (spec["models"]["student"]["taps"][n], spec["models"]["teacher"]["taps"][n])
            for n in spec["links"]
        ]
        assert places == [("blocks.1", "layer2"), ("blocks.3", "layer3"), ("blocks", "layer4")]
    if recipe == "relations":
        assert spec["models"]["teacher"]["taps"] == {"embedding": "fc:in"}
        assert spec["losses"]["relation"]["use"] == "relation"


def test_a_pretrained_teacher_where_the_classes_are_its_own(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    spec = propose(run, "timm/resnet18", "timm/resnet10t", tmp_path / "kd.yaml")
    assert spec["models"]["teacher"]["args"] == {"pretrained": True}
    assert "args" not in spec["models"]["student"]
    assert spec["batch"]["label"]["classes"] == 1000


def test_blocks_are_paired_by_depth(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    spec = propose(
        run, "timm/vit_small_patch16_224", "timm/vit_tiny_patch16_224", tmp_path / "kd.yaml",
        "--recipe", "hints",
    )  # fmt: skip
    assert list(spec["models"]["student"]["taps"].values()) == [
        "blocks.3",
        "blocks.7",
        "blocks.11",
        "output",
    ]


def test_tokens_of_a_teacher_become_a_map(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    spec = propose(
        run,
        "timm/vit_tiny_patch16_224",
        "timm/resnet10t",
        tmp_path / "kd.yaml",
        "--recipe",
        "hints",
    )
    assert spec["signals"] == {"map1": {"use": "tokens_to_map", "of": "teacher.mid1", "skip": 1}}
    assert spec["links"]["mid1"]["teacher"] == "map1"


def test_texts(run: Run, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.DistilBertConfig(n_layers=2, dim=16, hidden_dim=16, n_heads=2)
    config.save_pretrained(tmp_path / "small")
    source = f"hf/{tmp_path}/small"
    spec = propose(
        run, source, source, tmp_path / "kd.yaml", "--recipe", "hints", "--classes", "3"
    )  # fmt: skip
    assert spec["name"] == "small_from_small"
    assert spec["batch"]["input_ids"] == {"shape": ["B", "L"], "dtype": "int64"}
    student = spec["models"]["student"]
    assert student["args"] == {"head": "sequence-classification", "num_labels": 3}
    assert student["input"] == {"input_ids": "input_ids", "attention_mask": "attention_mask"}
    assert student["taps"] == {
        "mid1": "distilbert.transformer.layer.0",
        "mid2": "distilbert.transformer.layer.1",
        "logits": "output.logits",
    }


@pytest.mark.parametrize("recipe", ["logits", "hints", "relations"])
def test_decoders_continue_a_text(run: Run, tmp_path: Path, recipe: str) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=99).save_pretrained(
        tmp_path / "small"
    )
    source = f"hf/{tmp_path}/small"
    spec = propose(run, source, source, tmp_path / "kd.yaml", "--recipe", recipe)
    assert spec["batch"]["label"] == {"shape": ["B", "L"], "dtype": "int64", "classes": 99}
    student = spec["models"]["student"]
    assert student["args"] == {"head": "causal-lm"}
    assert student["input"] == {"input_ids": "tokens", "attention_mask": "mask"}
    per_token = [loss for name, loss in spec["losses"].items() if name[:4] in ("soft", "hint")]
    assert all(loss["mask"] == "mask" for loss in per_token)
    assert "# data: {use: tokens, " in (tmp_path / "kd.yaml").read_text()


def test_decoders_tell_classes_apart_where_they_are_asked_to(run: Run, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=99, pad_token_id=0
    ).save_pretrained(tmp_path / "small")
    source = f"hf/{tmp_path}/small"
    spec = propose(run, source, source, tmp_path / "kd.yaml", "--classes", "3")
    assert spec["models"]["student"]["args"] == {"head": "sequence-classification", "num_labels": 3}
    assert spec["batch"]["label"] == {"shape": ["B"], "dtype": "int64", "classes": 3}


def test_the_commented_training_blocks_are_right(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "kd.yaml"
    propose(run, "cifar/resnet14", "cifar/resnet8", out, "--recipe", "hints")
    lines = out.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("# data:"))
    bare = [line.removeprefix("# ") for line in lines[start:]]
    (tmp_path / "train.yaml").write_text("\n".join([*lines[:start], *bare, ""]))
    spec = kdgraph.load_spec(tmp_path / "train.yaml")
    assert spec.data is not None
    assert spec.train is not None


def test_without_a_file_it_prints(run: Run) -> None:
    result = run("init", "--teacher", "cifar/resnet14", "--student", "cifar/resnet8")
    assert result.exit_code == 0
    assert kdgraph.load_spec(result.stdout).name == "resnet8_from_resnet14"


def test_a_file_is_not_overwritten(run: Run, spec: Path) -> None:
    before = spec.read_text()
    result = run("init", "--teacher", "cifar/resnet14", "--student", "cifar/resnet8", "-o", spec)
    assert result.exit_code == 2
    assert spec.read_text() == before


def test_models_that_do_not_fit_are_told(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "kd.yaml"
    result = run(
        "init", "--teacher", "torchvision/resnet18", "--student", "cifar/resnet8", "-o", out
    )
    assert result.exit_code == 1
    assert "error[KD301]" in result.stderr
    assert "classes" in result.stderr
