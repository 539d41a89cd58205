"""What ``explain`` says of every spec that ships, field by field, as it is kept in ``goldens``.

``KDGRAPH_REWRITE_GOLDENS=1 pytest tests/visual/test_goldens.py`` writes them anew.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdgraph.train import explain

ROOT = Path(__file__).parents[2]
GOLDENS = Path(__file__).with_name("goldens")
SPECS = [p for folder in ("specs", "specs/methods") for p in sorted((ROOT / folder).glob("*.yaml"))]
REWRITE = os.environ.get("KDGRAPH_REWRITE_GOLDENS") == "1"

_COUNTS = ("flops_forward", "flops_backward", "parameters")  # the same with every torch
_HEADS = ("trained", "frozen", "buffers", "batch")  # and on every machine


def lasting(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts without times, versions, hashes, and what differs from torch to torch."""
    kept = ("name", "stage", "example_sizes", "batch", "links", "signals", "edges")
    roles = Counter(node["role"] for node in facts["nodes"])
    return {
        **{key: facts[key] for key in kept if key in facts},
        "models": {name: _model(model) for name, model in facts["models"].items()},
        "passes": {p["name"]: {k: p[k] for k in ("did", "declined")} for p in facts["passes"]},
        "nodes": dict(sorted(roles.items())),
        "cost": _cost(facts["cost"]),
        "reach": {
            tap: {key: None if share is None else round(share, 3) for key, share in at.items()}
            for tap, at in facts["reach"].items()
        },
        "start": {**facts["start"], "edges": list(facts["start"].get("edges", ()))},
        "book": facts["book"],
        "warnings": [_warning(w) for w in facts["warnings"]],
    }


def _model(model: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in model.items() if key != "weights_sha256"}
    return {**found, "declined": [d["rung"] for d in model["declined"]]}


def _cost(cost: dict[str, Any]) -> dict[str, Any]:
    def counted(sums: dict[str, Any]) -> dict[str, Any]:
        return {
            "roles": {
                role: {key: own[key] for key in _COUNTS}
                for role, own in sums["roles"].items()
                if any(own[key] for key in _COUNTS)
            },
            "memory": {head: sums["memory"][head] for head in _HEADS},
        }

    told = {key: cost[key] for key in ("batch", "batch_from", "unknown") if key in cost}
    if "unknown" in told:
        return told
    before = counted(cost["before_passes"])
    return {**told, "optimizer": cost["optimizer"], **counted(cost), "before_passes": before}


def _warning(warning: dict[str, Any]) -> dict[str, Any]:
    """Without the path of the file; of losses at the start, which are random, without figures."""
    found = {key: warning[key] for key in ("code", "line", "column", "message")}
    if found["code"] == "KD603":
        found["message"] = found["message"].partition(":")[0]
    return found


def text(value: Any, indent: str = "", taken: int = 0) -> str:
    """JSON with what fits on a line on one."""
    short = json.dumps(value, ensure_ascii=False)
    if len(indent) + taken + len(short) <= 98 or not isinstance(value, dict | list) or not value:
        return short
    deeper = f"{indent} "
    if isinstance(value, list):
        inner = [text(item, deeper) for item in value]
    else:
        keys = {key: f"{json.dumps(key, ensure_ascii=False)}: " for key in value}
        inner = [f"{head}{text(value[key], deeper, len(head))}" for key, head in keys.items()]
    start, end = "[]" if isinstance(value, list) else "{}"
    lines = f",\n{deeper}".join(inner)
    return f"{start}\n{deeper}{lines}\n{indent}{end}"


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every figure and word with its place: ``cost.roles.teacher.parameters``."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def differences(golden: Any, now: Any) -> list[str]:
    """One line for each field that is not what it was."""
    old, new = dict(flat(golden)), dict(flat(now))
    return [
        f"{path}: {old.get(path, 'nothing')!r} is now {new.get(path, 'nothing')!r}"
        for path in dict.fromkeys([*old, *new])
        if (path in old) != (path in new) or old[path] != new[path]
    ]


@pytest.mark.parametrize("path", SPECS, ids=[p.stem for p in SPECS])
def test_explain_says_what_it_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # else kernels are chosen
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    facts, _ = explain(path)
    now = json.loads(json.dumps(lasting(facts)))
    golden = GOLDENS / f"{path.stem}.json"
    if REWRITE:
        GOLDENS.mkdir(exist_ok=True)
        golden.write_text(f"{text(now)}\n", encoding="utf-8")
    wrong = differences(json.loads(golden.read_text(encoding="utf-8")), now)
    assert not wrong, "\n".join([f"{golden.name}, see {Path(__file__).name}:", *wrong])


def test_every_golden_is_of_a_spec() -> None:
    assert {p.stem for p in GOLDENS.glob("*.json")} == {p.stem for p in SPECS}


def test_differences_are_told_by_field() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "gone": []}
    new = {"a": {"b": 2, "c": [1]}, "new": None}
    assert differences(old, new) == [
        "a.b: 1 is now 2", "a.c.1: 2 is now 'nothing'", "gone: [] is now 'nothing'",
        "new: 'nothing' is now None",
    ]  # fmt: skip
    assert differences(old, old) == []
