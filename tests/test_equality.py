"""The compiled module equals the loop that people write by hand with forward hooks.

Six pairs, each against hooks written here: loss, every edge and every student gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdgraph

RTOL = 1e-6


def kl(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    dim = 1 if student.dim() == 4 else -1
    log_q, log_p = (student / tau).log_softmax(dim), (teacher / tau).log_softmax(dim)
    p, q = log_p.exp(), log_q.exp()
    # with q - p, which sums to zero: untrained networks nearly agree, and the textbook form
    # then loses the digits that are compared here
    return (p * (log_p - log_q) - p + q).sum(dim).mean() * tau**2


@dataclass
class Pair:
    """Two networks, what feeds them, and the taps by name."""

    make: Callable[[], tuple[nn.Module, nn.Module]]
    batch: dict[str, Any]
    values: Callable[[], dict[str, Tensor]]
    taps_s: dict[str, str]
    taps_t: dict[str, str]
    input: Any = "image"
    logits: Callable[[Any], Tensor] = lambda out: out
    rungs: tuple[str, ...] = ("fx",)


IMAGE = {"image": {"shape": ["B", 3, 64, 64]}, "label": {"shape": ["B"], "dtype": "int64"}}


def image(size: int = 64) -> dict[str, Tensor]:
    return {"image": torch.randn(3, 3, size, size), "label": torch.tensor([1, 0, 4])}


def timm_pair(teacher: str, student: str, **args: Any) -> tuple[nn.Module, nn.Module]:
    import timm

    return timm.create_model(teacher, num_classes=5, **args), timm.create_model(
        student, num_classes=5, **args
    )


def bert_pair() -> tuple[nn.Module, nn.Module]:
    from transformers import BertConfig, BertForSequenceClassification

    def bert(width: int, depth: int) -> nn.Module:
        config = BertConfig(
            vocab_size=50,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=2,
            intermediate_size=2 * width,
            max_position_embeddings=32,
            num_labels=5,
        )
        return BertForSequenceClassification(config)

    return bert(32, 4), bert(16, 2)


def segmentation_pair() -> tuple[nn.Module, nn.Module]:
    from torchvision.models.segmentation import (
        deeplabv3_mobilenet_v3_large,
        lraspp_mobilenet_v3_large,
    )

    options = {"weights": None, "weights_backbone": None, "num_classes": 5}
    return deeplabv3_mobilenet_v3_large(**options), lraspp_mobilenet_v3_large(**options)


class Gated(nn.Module):
    """Branches on its data in Python and calls a block by name: nothing fx or export can trace."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.ModuleDict(
            {"stem": nn.Conv2d(3, width, 3, 2, 1), "block": nn.Conv2d(width, width, 3, 2, 1)}
        )
        self.head = nn.Linear(width, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.inner["stem"](image)
        if float(x.detach().abs().sum()) >= 0:
            x = self.inner["block"](x.relu())
        return self.head(x.mean((2, 3)))


PAIRS = {
    "cnn": Pair(
        lambda: timm_pair("resnet26", "resnet18"),
        IMAGE,
        image,
        {"mid": "layer2", "logits": "output"},
        {"mid": "layer2", "logits": "output"},
    ),
    "vit": Pair(
        lambda: timm_pair("vit_tiny_patch16_224", "vit_tiny_patch16_224", img_size=64, depth=4),
        IMAGE,
        image,
        {"mid": "blocks.1", "logits": "output"},
        {"mid": "blocks.2", "logits": "output"},
    ),
    "swin": Pair(
        lambda: timm_pair(
            "swin_tiny_patch4_window7_224",
            "swin_tiny_patch4_window7_224",
            img_size=64,
            window_size=4,
            embed_dim=24,
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 2, 4),
        ),
        IMAGE,
        image,
        {"mid": "layers.1", "logits": "output"},
        {"mid": "layers.1", "logits": "output"},
    ),
    "bert": Pair(
        bert_pair,
        {
            "ids": {"shape": ["B", 12], "dtype": "int64"},
            "mask": {"shape": ["B", 12], "dtype": "int64"},
            "label": {"shape": ["B"], "dtype": "int64"},
        },
        lambda: {
            "ids": torch.randint(0, 50, (3, 12)),
            "mask": torch.ones(3, 12, dtype=torch.int64),
            "label": torch.tensor([1, 0, 4]),
        },
        {"mid": "bert.encoder.layer.0", "logits": "output.logits"},
        {"mid": "bert.encoder.layer.2", "logits": "output.logits"},
        input={"input_ids": "ids", "attention_mask": "mask"},
        logits=lambda out: out.logits,
        rungs=("fx", "export", "ports"),
    ),
    "segmentation": Pair(
        segmentation_pair,
        {
            "image": {"shape": ["B", 3, 64, 64]},
            "label": {"shape": ["B", 64, 64], "dtype": "int64"},
        },
        lambda: {
            "image": torch.randn(2, 3, 64, 64),
            "label": torch.randint(0, 5, (2, 64, 64)),
        },
        {"mid": "backbone.16", "logits": "output.out"},
        {"mid": "backbone.3", "logits": "output.out"},
        logits=lambda out: out["out"],
        rungs=("fx", "export", "ports"),
    ),
    "untraceable": Pair(
        lambda: (Gated(12), Gated(8)),
        IMAGE,
        image,
        {"mid": "inner.block", "logits": "output"},
        {"mid": "inner.block", "logits": "output"},
        rungs=("ports",),
    ),
}


def spec_of(pair: Pair) -> dict[str, Any]:
    return {
        "kdgraph": 1,
        "name": "equality",
        "batch": pair.batch,
        "models": {
            "teacher": {"input": pair.input, "taps": pair.taps_t},
            "student": {"input": pair.input, "taps": pair.taps_s},
        },
        "losses": {
            "label": {
                "use": "cross_entropy",
                "student": "student.logits",
                "target": "label",
                "weight": 0.3,
            },
            "soft": {
                "use": "soft_target",
                "student": "student.logits",
                "teacher": "teacher.logits",
                "tau": 3,
                "weight": 0.7,
            },
            "relation": {
                "use": "similarity",
                "student": "student.mid",
                "teacher": "teacher.mid",
                "weight": 5,
            },
        },
    }


class ByHand:
    """What a user writes without kdgraph: two hooks and three losses."""

    def __init__(self, teacher: nn.Module, student: nn.Module, pair: Pair) -> None:
        self.teacher, self.student, self.pair = teacher.eval(), student.train(), pair
        self.seen: dict[str, Tensor] = {}
        for side, model, taps in (("t", teacher, pair.taps_t), ("s", student, pair.taps_s)):
            model.get_submodule(taps["mid"]).register_forward_hook(self.keep(side))

    def keep(self, side: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            value = result[0] if isinstance(result, tuple) else result
            self.seen[side] = value.clone()  # a later in-place op must not reach it

        return hook

    def run(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        if isinstance(self.pair.input, str):
            fed = {"args": (values[self.pair.input],), "kwargs": {}}
        else:
            fed = {"args": (), "kwargs": {k: values[v] for k, v in self.pair.input.items()}}
        with torch.no_grad():
            z_t = self.pair.logits(self.teacher(*fed["args"], **fed["kwargs"]))
        z_s = self.pair.logits(self.student(*fed["args"], **fed["kwargs"]))
        return {
            "label": F.cross_entropy(z_s, values["label"]),
            "soft": kl(z_s, z_t, 3.0),
            "relation": self.similarity(self.seen["s"], self.seen["t"]),
        }

    @staticmethod
    def similarity(f_s: Tensor, f_t: Tensor) -> Tensor:
        def gram(f: Tensor) -> Tensor:
            flat = f.flatten(1)
            return F.normalize(flat @ flat.T, dim=1)

        return (gram(f_s) - gram(f_t)).square().sum() / len(f_s) ** 2


@pytest.mark.parametrize("name", PAIRS)
def test_compiled_equals_a_loop_with_hooks(name: str) -> None:
    pair = PAIRS[name]
    torch.manual_seed(0)
    teacher, student = pair.make()
    values = pair.values()
    hand = ByHand(copy.deepcopy(teacher), copy.deepcopy(student), pair)
    step = kdgraph.compile(spec_of(pair), models={"teacher": teacher, "student": student})

    torch.manual_seed(1)  # the same dropout masks
    out = step(**values)
    out.loss.backward()
    torch.manual_seed(1)
    edges = hand.run(values)
    loss = 0.3 * edges["label"] + 0.7 * edges["soft"] + 5 * edges["relation"]
    loss.backward()

    torch.testing.assert_close(out.loss, loss, rtol=RTOL, atol=0)
    for edge, value in edges.items():
        torch.testing.assert_close(out.losses[edge], value, rtol=RTOL, atol=1e-9)
    largest = max(
        float(p.grad.abs().max()) for p in hand.student.parameters() if p.grad is not None
    )
    theirs = dict(hand.student.named_parameters())
    for path, ours in student.named_parameters():
        if theirs[path].grad is None:
            assert ours.grad is None or not ours.grad.any(), path
            continue
        torch.testing.assert_close(
            ours.grad, theirs[path].grad, rtol=RTOL, atol=RTOL * largest, msg=path
        )
    for path, buffer in student.named_buffers():
        torch.testing.assert_close(buffer, hand.student.get_buffer(path), msg=path)
    assert all(p.grad is None for p in teacher.parameters())
    rungs = {c.rung for c in step.report.captures.values()}
    assert rungs <= set(pair.rungs), rungs


@pytest.mark.parametrize("name", PAIRS)
def test_no_hook_is_registered(name: str) -> None:
    pair = PAIRS[name]
    teacher, student = pair.make()
    step = kdgraph.compile(spec_of(pair), models={"teacher": teacher, "student": student})
    for root in (step, teacher, student):
        for module in root.modules():
            for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
                assert not getattr(module, kind)


@pytest.mark.parametrize("name", ["cnn", "vit", "bert"])
def test_torch_compile_makes_one_graph(name: str) -> None:
    pair = PAIRS[name]
    torch.manual_seed(0)
    teacher, student = pair.make()
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    values = pair.values()
    step = kdgraph.compile(spec_of(pair), models={"teacher": teacher, "student": student})
    state = copy.deepcopy(student.state_dict())
    plain = step(**values)
    student.load_state_dict(state)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(**values)
    torch.testing.assert_close(compiled.loss, plain.loss, rtol=1e-5, atol=1e-6)
