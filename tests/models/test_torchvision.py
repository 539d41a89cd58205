from __future__ import annotations

import pytest
import torch

from kdgraph.errors import ModelError
from kdgraph.models.load import build_model, build_skeleton

EXAMPLE = ("squeezenet1_1", {"num_classes": 5})


def test_builds_by_name_with_arguments() -> None:
    model = build_model("torchvision/resnet18", {"num_classes": 5}).eval()
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 5)


def test_unknown_name_has_a_near_match() -> None:
    with pytest.raises(ModelError, match=r"KD411.*\n.*'resnet50'"):
        build_model("torchvision/resnet_50", {})


def test_unknown_weights_have_a_near_match() -> None:
    with pytest.raises(ModelError, match=r"KD411.*\n.*'IMAGENET1K_V1'"):
        build_model("torchvision/resnet18", {"weights": "IMAGENET1K_V9"})


def test_bad_argument_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"KD413.*num_clases"):
        build_skeleton("torchvision/resnet18", {"num_clases": 5})


@pytest.mark.parametrize("build", [build_model, build_skeleton])
def test_weights_of_another_class_count_are_refused_before_any_download(build: object) -> None:
    with pytest.raises(ModelError, match="1000 classes, not 10"):
        build("torchvision/resnet18", {"weights": "DEFAULT", "num_classes": 10})  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "part", "shape"),
    [
        ("resnet50", "fc", (1000, 2048)),
        ("deeplabv3_resnet50", "aux_classifier.4", (21, 256, 1, 1)),
        ("fcn_resnet50", "classifier.4", (21, 512, 1, 1)),
        ("inception_v3", "AuxLogits.fc", (1000, 768)),
        ("vit_b_16", "heads.head", (1000, 768)),
    ],
)
def test_a_skeleton_has_the_shapes_that_pretrained_weights_imply(
    name: str, part: str, shape: tuple[int, ...]
) -> None:
    model = build_skeleton(f"torchvision/{name}", {"weights": "DEFAULT"})
    assert model.get_submodule(part).weight.shape == shape


def test_a_skeleton_follows_the_image_size_of_the_weights() -> None:
    model = build_skeleton("torchvision/vit_b_16", {"weights": "IMAGENET1K_SWAG_E2E_V1"})
    assert model.get_parameter("encoder.pos_embedding").shape == (1, 24 * 24 + 1, 768)


@pytest.mark.parametrize("name", ["fcn_resnet50", "fasterrcnn_resnet50_fpn"])
def test_a_skeleton_fetches_no_backbone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    build_skeleton(f"torchvision/{name}", {})
    with pytest.raises(ModelError, match="a download was tried"):
        build_model(f"torchvision/{name}", {})
