"""Steps on a batch that several processes share; run by each of them, and by one alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

import kdgraph

B, L, K = 13, 5, 4

VECTORS = {"x": {"shape": ["B", 6], "dtype": "float64"}}
LABELS = {"label": {"shape": ["B"], "dtype": "int64", "classes": K}}
TOKENS = {
    "x": {"shape": ["B", "L", 6], "dtype": "float64"},
    "label": {"shape": ["B", "L"], "dtype": "int64", "classes": K},
    "mask": {"shape": ["B", "L"]},
}
LOGITS = {"student": "student.logits", "teacher": "teacher.logits"}
MID = {"student": "student.mid", "teacher": "teacher.mid"}


def edge(use: str, **keys: Any) -> dict[str, Any]:
    return {"use": use, **keys}


# the parts of a spec that each case is made of
CASES: dict[str, dict[str, Any]] = {
    "labels": {
        "losses": {
            "label": edge("cross_entropy", student="student.logits", target="label", weight=0.3),
            "soft": edge("soft_target", **LOGITS, tau=3.0),
            "hint": edge("hint", link="mid", weight={"linear": [1.0, 0.5], "epochs": [0, 2]}),
        },
        "links": {"mid": {**MID, "adapter": "linear"}},
    },
    "balanced": {
        "losses": {
            "label": edge(
                "cross_entropy",
                student="student.logits",
                target="label",
                class_weights=[0.1, 1.0, 2.0, 0.5],
                smoothing=0.1,
            ),
        },
    },
    "reductions": {
        "losses": {
            "sum": edge("soft_target", **LOGITS, reduction="sum"),
            "batchmean": edge("logit_mse", **LOGITS, reduction="batchmean"),
            "element": edge("soft_target", **LOGITS, tau=2.0, reduction="element"),
        },
    },
    "row_weight": {
        "signals": {"sure": {"use": "certainty", "of": "teacher.logits"}},
        "losses": {"soft": edge("soft_target", **LOGITS, weight="sure")},
    },
    "batch_signals": {
        "signals": {
            "sure": {"use": "certainty", "of": "teacher.logits"},
            "share": {"use": "batch_weight", "of": "sure"},
            "margin": {"use": "margin_relu", "of": "teacher.mid"},
        },
        "losses": {
            "soft": edge("soft_target", **LOGITS, weight="share"),
            "mid": edge("partial_l2", student="student.mid", teacher="margin"),
        },
        "links": {},
    },
    "trained_signal": {  # its gradient reaches the rows of other ranks
        "signals": {"margin": {"use": "margin_relu", "of": "student.mid"}},
        "losses": {"mid": edge("hint", student="margin", teacher="teacher.mid")},
    },
    "relations": {
        "losses": {
            "relation": edge("relation", **MID),
            "similarity": edge("similarity", **MID),
            "cka": edge("cka", **MID),
            "pkt": edge("pkt", **MID),
            "contrastive": edge("contrastive", student="student.mid", teacher="teacher.mid"),
            "congruence": edge("correlation_congruence", **MID),
            "pearson": edge("pearson", **MID),
            "log_sum": edge("log_sum", **MID),
            "spread": edge("intra_class_variance", student="student.mid", target="label"),
            "apart": edge("orthogonal_projection", student="student.mid", target="label"),
            "dist": edge("dist", **LOGITS, tau=2.0),
            "soft": edge("soft_target", **LOGITS, tau=2.0),
        },
    },
    "tokens": {
        "batch": TOKENS,
        "losses": {
            "label": edge("cross_entropy", student="student.logits", target="label"),
            "soft": edge("soft_target", **LOGITS, mask="mask"),
            "mid": edge("hint", **MID, mask="mask"),
            "every": edge("logit_mse", **LOGITS),
            "samples": edge("soft_target", **LOGITS, mask="mask", reduction="batchmean"),
        },
    },
    "rank": {
        "losses": {
            "relation": edge("relation", **MID, scope="rank"),
            "soft": edge("soft_target", **LOGITS, scope="rank"),
        },
    },
    "weights": {  # rows that are not of the batch, and the same on each rank
        "taps": {"mid": "1", "logits": "output", "rows": "2.rows"},
        "losses": {
            "sum": edge("entropy", student="student.rows", reduction="sum"),
            "mean": edge("entropy", student="student.rows", weight=0.5),
            "soft": edge("soft_target", **LOGITS),
        },
    },
    "two_sizes": {  # another pair of models, on rows of which there is another number
        "batch": {"other": {"shape": ["N", 6], "dtype": "float64"}} | VECTORS | LABELS,
        "models": {
            "teacher": {"input": "x", "taps": {"mid": "1", "logits": "output"}},
            "student": {"input": "x", "taps": {"mid": "1", "logits": "output"}},
            "judge": {"input": "other", "taps": {"out": "output"}},
            "pupil": {"input": "other", "taps": {"out": "output"}, "trainable": True},
        },
        "losses": {
            "label": edge("cross_entropy", student="student.logits", target="label"),
            "soft": edge("soft_target", **LOGITS),
            "relation": edge("relation", **MID),
            "other": edge("logit_mse", student="pupil.out", teacher="judge.out"),
            "similarity": edge("similarity", student="pupil.out", teacher="judge.out"),
        },
    },
    "signal_mask": {
        "signals": {"known": {"use": "labelled", "of": "label"}},
        "losses": {
            "label": edge("cross_entropy", student="student.logits", target="label", mask="known"),
        },
    },
}


class Rows(nn.Module):
    """Gives a weight, as attention over channels that no input changes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(B, K))  # as many rows as a batch, by chance

    def forward(self) -> Tensor:
        return 2 * self.weight


class Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.rows, self.linear = Rows(), nn.Linear(width, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.rows().sum(0)


def net(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, K))
    return layers.double()


def net_of_rows(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), Head(width)).double()


def compiled(case: str, **settings: Any) -> kdgraph.DistillModule:
    parts = {k: v for k, v in CASES[case].items() if k not in ("batch", "taps")}
    taps = CASES[case].get("taps", {"mid": "1", "logits": "output"})
    made = net_of_rows if "taps" in CASES[case] else net
    spec = {
        "kdgraph": 1,
        "name": case,
        "batch": CASES[case].get("batch", VECTORS | LABELS),
        "models": {"teacher": {"taps": taps}, "student": {"taps": taps}},
        **parts,
    }
    models = {name: made(7, seed) for seed, name in enumerate(spec["models"], 1)}
    torch.manual_seed(3)
    return kdgraph.compile(spec, models=models, **settings).double()


def masked(by: str, teacher: nn.Module) -> kdgraph.DistillModule:
    """Rows count where a model is right, ``student`` or ``teacher``."""
    taps = {"logits": "output"}
    spec = {
        "kdgraph": 1,
        "name": "masked",
        "batch": VECTORS | LABELS,
        "models": {"student": {"taps": taps}, "teacher": {"taps": taps}},
        "signals": {"right": {"use": "correct", "of": f"{by}.logits", "label": "label"}},
        "losses": {"soft": edge("soft_target", **LOGITS, mask="right")},
    }
    return kdgraph.compile(spec, models={"teacher": teacher, "student": net(7, 2)}).double()


def batch(case: str) -> dict[str, Tensor]:
    torch.manual_seed(4)
    if case != "tokens":
        vectors = {"x": torch.randn(B, 6).double(), "label": torch.arange(B) % K}
        more = {"other": torch.randn(B, 6).double()} if case == "two_sizes" else {}
        return vectors | more
    label = torch.randint(0, K, (B, L))
    label[: B // 2 + 2] = -100  # the first of two ranks has no label at all
    mask = (torch.rand(B, L) > 0.6).float()
    return {"x": torch.randn(B, L, 6).double(), "label": label, "mask": mask}


def share(whole: Mapping[str, Tensor], sizes: list[int], rank: int) -> dict[str, Tensor]:
    """The part of a rank; of ``other`` sizes are given out the other way round."""
    order = {"other": sizes[::-1]}
    return {name: value.split(order.get(name, sizes))[rank] for name, value in whole.items()}


SIZES = {1: [13], 2: [8, 5], 4: [5, 4, 3, 1]}


def gradients(step: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in step.named_parameters() if p.grad is not None}


def stepped(case: str, rank: int, world: int) -> dict[str, Any]:
    """Losses and gradients of a step, these averaged over ranks."""
    step = compiled(case)
    out = step(**share(batch(case), SIZES[world], rank))
    out.loss.backward()
    grads = gradients(step)
    if world > 1:
        for grad in grads.values():
            distributed.all_reduce(grad)
            grad /= world
    losses = {n: v.item() for n, v in out.losses.items()}
    return {"loss": out.loss.item(), "losses": losses, "grads": grads}


def padded_apart(rank: int) -> str:
    """What a step says whose ranks have padded tokens, which it reads together, to two lengths."""
    CASES["apart"] = {"batch": TOKENS, "losses": {"pearson": edge("pearson", **MID)}}
    length = L - rank % 2
    own = {"x": torch.randn(3, length, 6).double(), "mask": torch.ones(3, length)}
    try:
        compiled("apart")(**own, label=torch.zeros(3, length, dtype=torch.int64))
    except kdgraph.KDGraphError as error:
        return str(error)
    return ""


def run() -> dict[str, Any]:
    rank, world = 0, 1
    if distributed.is_initialized():
        rank, world = distributed.get_rank(), distributed.get_world_size()
    found: dict[str, Any] = {case: stepped(case, rank, world) for case in CASES}
    return found | ({"apart": padded_apart(rank)} if world > 1 else {})
