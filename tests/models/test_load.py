from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdgraph.models.load import build_model, build_skeleton
from kdgraph.models.weights import save_weights

LLAMA = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99}


@pytest.mark.parametrize(
    ("source", "args"),
    [
        ("timm/vit_tiny_patch16_224", {"pretrained": True}),
        ("timm/resnet26", {}),
        ("timm/swin_tiny_patch4_window7_224", {}),
        ("timm/convnext_atto", {}),
        ("torchvision/resnet50", {"weights": "DEFAULT"}),
        ("torchvision/mobilenet_v3_small", {}),
        ("torchvision/densenet121", {}),
        ("torchvision/inception_v3", {}),
        ("torchvision/deeplabv3_resnet50", {}),
        ("torchvision/fcn_resnet50", {"weights_backbone": None}),
        ("torchvision/swin_t", {}),
        ("hf/bert", {}),
        ("hf/llama", {**LLAMA, "head": "causal-lm", "tie_word_embeddings": True}),
        ("cifar/resnet110", {}),
    ],
)
def test_skeletons_build_and_disturb_nothing(source: str, args: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    model = build_skeleton(source, args)
    assert torch.equal(torch.get_rng_state(), before)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    assert nn.Linear(2, 2).weight.abs().sum() > 0  # initialisation works again


@pytest.mark.parametrize(
    ("source", "args"),
    [
        ("timm/swin_tiny_patch4_window7_224", {}),
        ("hf/llama", {**LLAMA, "head": "causal-lm", "tie_word_embeddings": True}),
    ],
)
def test_a_skeleton_has_the_buffers_and_ties_of_the_model(
    source: str, args: dict[str, Any]
) -> None:
    real, skeleton = build_model(source, args), build_skeleton(source, args)
    assert [(n, p.shape, p.dtype) for n, p in real.named_parameters()] == [
        (n, p.shape, p.dtype) for n, p in skeleton.named_parameters()
    ]
    buffers = dict(skeleton.named_buffers())
    for name, buffer in real.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_weights_replace_pretrained_ones_and_leave_the_random_state(tmp_path: Path) -> None:
    source, args = "torchvision/resnet18", {"weights": "DEFAULT"}
    trained = build_model("torchvision/resnet18", {})
    save_weights(trained, tmp_path / "trained.safetensors")
    before = torch.get_rng_state()
    loaded = build_model(source, args, weights=tmp_path / "trained.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
