"""Small language models of several families, specs of a pair of them, and batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

VOCABULARY = 23
_WIDE = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24}
_MORE = {"num_attention_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 32}
_LLAMA = {**_WIDE, **_MORE, "num_key_value_heads": 1}
_STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": VOCABULARY, "n_positions": 32}
_GPT_STILL = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2}

ARGS: dict[str, dict[str, Any]] = {
    "llama": {**_LLAMA, "head": "causal-lm"},
    "qwen2": {**_LLAMA, "head": "causal-lm", "bos_token_id": 1, "eos_token_id": 2},
    "qwen3": {**_LLAMA, "head": "causal-lm", "head_dim": 8, **_ENDS},
    "gpt2": {**_GPT, **_GPT_STILL, **_ENDS, "head": "causal-lm"},
    "bert": {**_WIDE, **_MORE, **_STILL, "head": "masked-lm"},
}
LAYERS = {
    "llama": "model.layers",
    "qwen2": "model.layers",
    "qwen3": "model.layers",
    "gpt2": "transformer.h",
    "bert": "bert.encoder.layer",
}
_DEPTH = {"gpt2": "n_layer"}


def shallow(family: str, layers: int = 1) -> dict[str, Any]:
    """The arguments of a model of a family with fewer layers."""
    return {**ARGS[family], _DEPTH.get(family, "num_hidden_layers"): layers}


def pair(family: str, **inputs: str) -> dict[str, Any]:
    """A spec: next tokens, soft targets and hidden states, all where ``keep`` says.

    Args:
        family: of ``ARGS``.
        inputs: argument of both models to batch entry, beside ``input_ids: tokens``.
    """
    read = {"input_ids": "tokens", **inputs}
    path = LAYERS[family]
    return {
        "kdgraph": 1,
        "name": f"tiny {family}",
        "batch": {
            "tokens": {"shape": ["B", "L"], "dtype": "int64"},
            "label": {"shape": ["B", "L"], "dtype": "int64", "classes": VOCABULARY},
            "keep": {"shape": ["B", "L"], "dtype": "bool"},
            **{entry: {"shape": ["B", "L"], "dtype": "int64"} for entry in inputs.values()},
        },
        "models": {
            "teacher": {
                "source": f"hf/{family}",
                "args": ARGS[family],
                "input": read,
                "taps": {"hidden": f"{path}.1", "logits": "output.logits"},
            },
            "student": {
                "source": f"hf/{family}",
                "args": shallow(family),
                "input": read,
                "taps": {"hidden": f"{path}.0", "logits": "output.logits"},
            },
        },
        "losses": {
            "next": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
            "soft": {
                "use": "soft_target",
                "student": "student.logits",
                "teacher": "teacher.logits",
                "tau": 2.0,
                "mask": "keep",
            },
            "hidden": {
                "use": "hint",
                "student": "student.hidden",
                "teacher": "teacher.hidden",
                "mask": "keep",
            },
        },
    }


def logits_only(spec: dict[str, Any]) -> dict[str, Any]:
    """The same without hidden states: no model is opened then, which is quick to compile."""
    for model in spec["models"].values():
        del model["taps"]["hidden"]
    del spec["losses"]["hidden"]
    return spec


def batch(lengths: list[int], side: str = "right", size: int = 8) -> dict[str, Tensor]:
    """Sequences of some lengths, padded at one side to ``size``; labels are one place on."""
    torch.manual_seed(0)
    long = [torch.randint(3, VOCABULARY, (n + 1,)) for n in lengths]
    tokens, label = torch.zeros(2, len(lengths), size, dtype=torch.int64)
    keep = torch.zeros(len(lengths), size, dtype=torch.bool)
    for row, sequence in enumerate(long):
        n = len(sequence) - 1
        place = slice(size - n, size) if side == "left" else slice(0, n)
        tokens[row, place], label[row, place], keep[row, place] = sequence[:-1], sequence[1:], True
    return {"tokens": tokens, "label": label.where(keep, -100), "keep": keep}
