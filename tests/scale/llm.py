"""Tiny language models with hidden states that are taught, whole and in shards."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

import kdgraph
from kdgraph.runtime.sharding import shard

B, L, K = 6, 7, 61
SIZES = {1: [6], 2: [4, 2]}
SMALL = {
    "head": "causal-lm", "vocab_size": K, "hidden_size": 16, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32,
}  # fmt: skip


def model(layers: int, mid: int, capture: str, **more: Any) -> dict[str, Any]:
    return {
        "source": "hf/llama",
        "args": SMALL | {"num_hidden_layers": layers} | more,
        "capture": capture,
        "input": {"input_ids": "ids", "attention_mask": "mask"},
        "taps": {"logits": "output.logits", "mid": f"model.layers.{mid}"},
    }


def compiled(capture: str, tied: bool) -> kdgraph.DistillModule:
    whole = {"dtype": "int64", "shape": ["B", "L"]}
    spec = {
        "kdgraph": 1,
        "name": "llm",
        "batch": {"ids": whole, "mask": whole, "label": whole | {"classes": K}},
        "models": {
            "teacher": model(3, 1, capture, tie_word_embeddings=tied),
            "student": model(2, 0, capture, tie_word_embeddings=tied),
        },
        "losses": {
            "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
            "soft": {
                "use": "soft_target", "student": "student.logits", "teacher": "teacher.logits",
                "mask": "mask",
            },
            "mid": {
                "use": "hint", "student": "student.mid", "teacher": "teacher.mid", "mask": "mask",
            },
        },
    }  # fmt: skip
    torch.manual_seed(0)
    return kdgraph.compile(spec)


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids, mask = torch.randint(0, K, (B, L)), torch.ones(B, L, dtype=torch.int64)
    mask[2:, 4:] = 0
    return {"ids": ids, "mask": mask, "label": ids.where(mask > 0, -100)}


def trained(capture: str, tied: bool) -> dict[str, Any]:
    step, rank, world, units = compiled(capture, tied), 0, 1, set()
    if distributed.is_initialized():
        rank, world = distributed.get_rank(), distributed.get_world_size()
        shard(step)
        units = {
            f"{name}.{path}"
            for name, net in step.networks.items()
            for path, module in net.named_modules()
            if "FSDP" in type(module).__name__
        }
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        out = step(**{n: v.split(SIZES[world])[rank] for n, v in batch().items()})
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    return {"losses": losses, "units": units}


def run() -> dict[str, Any]:
    return {
        f"{capture}, {'tied' if tied else 'apart'}": trained(capture, tied)
        for capture, tied in (("ports", True), ("ports", False), ("export", True))
    }
