from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdgraph.errors import ModelError
from kdgraph.models.load import build_model, build_skeleton

EXAMPLE = ("resnet10t", {"num_classes": 5})


def test_builds_by_name_with_arguments() -> None:
    model = build_model("timm/resnet10t", {"num_classes": 5, "in_chans": 1}).eval()
    assert model(torch.randn(1, 1, 32, 32)).shape == (1, 5)


def test_unknown_name_has_a_near_match() -> None:
    with pytest.raises(ModelError, match=r"KD411.*\n.*'resnet26"):
        build_model("timm/resnett26", {})


def test_bad_argument_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"KD413.*num_clases"):
        build_model("timm/resnet10t", {"num_clases": 5})


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"])
@pytest.mark.parametrize("build", [build_model, build_skeleton])
def test_no_argument_says_where_weights_are_read(key: str, build: Callable[..., object]) -> None:
    with pytest.raises(ModelError, match=rf"KD412.*`{key}`.*\n.*`weights:`"):
        build("timm/resnet10t", {key: None})


def test_a_skeleton_ignores_pretrained_and_keeps_the_tag() -> None:
    model = build_skeleton("timm/resnet50.a1_in1k", {"pretrained": True})
    assert model.get_parameter("fc.weight").shape == (1000, 2048)


def test_a_local_folder(tmp_path: Path) -> None:
    config = {"architecture": "resnet10t", "num_classes": 4, "pretrained_cfg": {"num_classes": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = build_skeleton(f"timm/local-dir:{tmp_path}", {"pretrained": True})
    assert model.get_parameter("fc.weight").shape == (4, 512)


def test_a_skeleton_of_a_hub_model_reads_only_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"KD415.*not on this machine\n.*hf download nobody/none"):
        build_skeleton("timm/hf-hub:nobody/none", {})

    config = tmp_path / "config.json"
    config.write_text(json.dumps({"architecture": "resnet10t", "num_classes": 3}))
    asked: list[object] = []

    def cached(identifier: str, file: str, *, revision: str | None) -> str:
        asked.append((identifier, file, revision))
        return str(config)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    model = build_skeleton("timm/hf-hub:some/one@main", {"pretrained": True})
    assert model.get_parameter("fc.weight").shape == (3, 512)
    assert asked == [("some/one", "config.json", "main")]
