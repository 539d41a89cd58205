"""Small runs whose reports the tests look at: a module of networks and data, and specs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kdgraph.train
from kdgraph.train.result import Result

TRUST = ["report_nets"]
HOSTILE = "</script><script>alert(\"x\")</script> & 'quoted' مرحبا 🎓"
NETS = '''
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

def mlp(width=24):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Dropout(0.2), nn.Linear(width, 10),
    )

class Again(nn.Module):
    """Runs its layers once more in each backward pass: statistics move, dropout draws."""

    def __init__(self):
        super().__init__()
        layers = nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2)
        self.inner = nn.Sequential(*layers)

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)

def again():
    return nn.Sequential(nn.Flatten(), Again(), nn.Linear(24, 10))

class Picky(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        if len(x) == 8:  # the rest of the validation data
            raise ValueError("a size I do not know")
        return self.layer(x.flatten(1))

def picky(width=8):
    return Picky()

def tagger(width=8):
    return nn.Sequential(nn.Embedding(6, width), nn.Linear(width, 3))

def fit(width=8):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 1))

def rows(kind, count=40, level=None):
    random = torch.Generator().manual_seed(7)
    def part():
        if kind == "numbers":
            x = torch.rand(count, 4, generator=random)
            y = x.sum(1, keepdim=True)
            return {"x": x, "y": y if level is None else torch.full_like(y, level)}
        tokens = torch.randint(6, (count, 5), generator=random)
        labels = tokens % 3
        labels[:, 4] = -100
        return {"tokens": tokens, "label": labels}
    return {"train": part(), "val": part(), "test": part()}
'''
SGD = {"use": "SGD", "lr": 0.1, "momentum": 0.9}
NET = {"source": "python/report_nets:mlp", "taps": {"logits": "output"}}
SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": HOSTILE,
    "batch": {
        "image": {"shape": ["B", 1, 8, 8]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 10},
    },
    "models": {"teacher": {**NET, "args": {"width": 48}}, "student": NET},
    "losses": {
        "label": {
            "use": "cross_entropy", "student": "student.logits", "target": "label",
            "weight": {"linear": [1.0, 0.1], "epochs": [0, 2]},
        },
        "soft": {
            "use": "soft_target", "student": "student.logits", "teacher": "teacher.logits",
            "tau": {"linear": [4, 2], "epochs": [0, 3]}, "weight": 0.5,
        },
    },
    "data": {"use": "digits", "limit": 200, "batch_size": 50, "augment": {"shift": 1}},
    "train": {"epochs": 3, "optimizer": SGD, "log_every": 1, "teacher": {"epochs": 1}},
}  # fmt: skip
STAGES: list[dict[str, Any]] = [
    {"name": "teach", "epochs": 1, "trainable": {"teacher": True, "student": False},
     "losses": {"label": 0, "soft": 0}},
    {"name": "learn", "epochs": 2, "trainable": {"teacher": False},
     "losses": {"own": 0},
     "during": [{"use": "prune", "module": "student.1", "statistic": "mean", "eps": 100.0,
                 "min_keep": 9, "start": 1, "every": 5}]},
]  # fmt: skip


def spec(**changes: Any) -> dict[str, Any]:
    """The spec with some of its blocks' keys changed."""
    made = copy.deepcopy(SPEC)
    for block, keys in changes.items():
        made[block] = {**made[block], **keys} if isinstance(keys, dict) else keys
    return made


def staged() -> dict[str, Any]:
    """A teacher that learns first; then a layer of the student is made narrower."""
    own = {"use": "cross_entropy", "student": "teacher.logits", "target": "label"}
    return {**spec(losses={"own": own}, train={"teacher": None}), "stages": STAGES}


def of(kind: str) -> dict[str, Any]:
    """A spec of a sequence task, or of numbers that are no classes."""
    words = kind == "tokens"
    net = {
        "source": f"python/report_nets:{'tagger' if words else 'fit'}",
        "taps": {"out": "output"},
    }
    task = "cross_entropy" if words else "hint"
    sides = {"student": "student.out", "target" if words else "teacher": "label" if words else "y"}
    batch = {
        "tokens": {
            "tokens": {"shape": ["B", 5], "dtype": "int64"},
            "label": {"shape": ["B", 5], "dtype": "int64", "classes": 3},
        },
        "numbers": {"x": {"shape": ["B", 4]}, "y": {"shape": ["B", 1]}},
    }[kind]
    imitate = {"use": "soft_target" if words else "hint"}
    evaluate = {} if words else {"evaluate": {"target": "y"}, "metrics": ["mean_squared_error"]}
    data = {"use": "python", "call": "report_nets:rows", "args": {"kind": kind}, "batch_size": 20}
    return {
        "kdgraph": 1, "name": kind, "batch": batch, "models": {"teacher": net, "student": net},
        "losses": {
            "task": {"use": task, **sides},
            "like": {**imitate, "student": "student.out", "teacher": "teacher.out"},
        },
        "data": data,
        "train": {"epochs": 2, "optimizer": SGD, "log_every": 1, **evaluate},
    }  # fmt: skip


def go(spec: dict[str, Any], out: Path, **options: Any) -> Result:
    """Trains on the CPU."""
    return kdgraph.train.run(spec, out=out, device="cpu", trust=TRUST, **options)
