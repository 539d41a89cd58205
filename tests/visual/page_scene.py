"""A scene written by hand: what the page reads, with nothing compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SCRIPT = '<script>alert("x")</script>'
RTL = "\u05e9\u05db\u05d1\u05d4 \u0627\u0644\u0637\u0628\u0642\u0629"
EMOJI = "conv \U0001f9ea\U0001f469\u200d\U0001f52c"
LONG = "layer" + "0123456789" * 30
"""Names that a careless page would run, break or overlap."""


def node(name: str, role: str, *inputs: str, **more: Any) -> dict[str, Any]:
    """A node of the pool."""
    return {
        "name": name,
        "title": name,
        "op": "call_module",
        "target": f"models.{role}.{name}",
        "kind": "Conv2d",
        "path": name.replace("_", "."),
        "role": role,
        "owner": role,
        "inputs": list(inputs),
        "shape": ["B", 8, 4, 4],
        "dtype": "float32",
        "parameters": 10,
        "flops": [1000, 2000],
        "bytes": [100, 200],
        "kept": 50,
        "span": "spec.yaml:7:3",
        "history": [],
        **more,
    }


def box(name: str, role: str, *items: Any, **more: Any) -> dict[str, Any]:
    """A box of a step."""
    return {
        "id": name,
        "title": name,
        "lines": [],
        "role": role,
        "cluster": None,
        "taps": [],
        "faded": False,
        "marks": [],
        "edge": None,
        "why": None,
        "after": None,
        "items": list(items),
        **more,
    }


def group(name: str, *items: Any) -> dict[str, Any]:
    """A module that unfolds."""
    return {"id": name, "title": name.rpartition("/")[2], "kind": "Block", "path": name,
            "items": list(items)}  # fmt: skip


def words(value: float | None, curve: list[float] | None = None, text: str = "") -> dict[str, Any]:
    """A number that may move."""
    return {"words": text or f"{value:g}", "value": value, "curve": curve, "signal": None}


def model(role: str, blocks: int, pool: list[dict[str, Any]], taps: str = "mid") -> list[Any]:
    """The boxes of a model: a stem, `blocks` residual blocks of four nodes, a head."""
    start = len(pool)
    pool.append(node(f"{role}_stem", role, "image"))
    last, items = f"{role}_stem", []
    for i in range(blocks):
        a, b, c, d = (f"{role}_b{i}_{part}" for part in ("conv1", "relu", "conv2", "add"))
        at = len(pool)
        pool += [node(a, role, last), node(b, role, a, kind="relu", parameters=0),
                 node(c, role, b), node(d, role, c, last, kind="add", parameters=0)]  # fmt: skip
        items.append(group(f"{role}/body/{i}", *range(at, at + 4)))
        last = d
    pool.append(node(f"{role}_head", role, last, shape=["B", 10], kind="Linear"))
    return [
        box(f"{role}_1", role, start, *items, cluster=role, taps=[taps],
            lines=[f"{blocks} blocks", "[B, 8, 4, 4]"], title="stem ... body"),
        box(f"{role}_2", role, len(pool) - 1, cluster=role, taps=["logits"],
            lines=["Linear", "[B, 10]"], title="head"),
    ]  # fmt: skip


def leg(name: str | None, blocks: int = 3, hostile: bool = False) -> dict[str, Any]:
    """A leg with a cut teacher, an adapter, two losses, and a pass that merged something."""
    pool = [
        node("image", "batch", op="placeholder", kind="", path="", parameters=0, history=[]),
        node("label", "batch", op="placeholder", shape=["B"], dtype="int64", kind="", path=""),
    ]
    front = [
        box("image", "batch", 0, lines=["[B, 1, 8, 8]"]),
        box("label", "batch", 1, lines=["[B]"]),
    ]
    teacher, student = model("teacher", blocks, pool), model("student", max(1, blocks // 2), pool)
    at = len(pool)
    taught = f"teacher_b{blocks - 1}_add"
    learnt = f"student_b{max(1, blocks // 2) - 1}_add"
    pool += [
        node("fit", "adapter", learnt, owner="adapters.mid", path="adapters.mid"),
        node("hint_1", "loss", "fit", taught, owner="losses.hint", shape=[], path="losses.hint"),
        node("label_1", "loss", "student_head", "label", owner="losses.label", shape=[]),
        node("total", "total", "hint_1", "label_1", owner="total", shape=[], path="", kind="add"),
        node("label_2", "loss", "label_1", owner="losses.label", shape=[], path="losses.label"),
    ]
    pool[at]["history"] = [{"pass": "fold", "what": "folded into one convolution"}]
    parts = [
        box("adapters_mid", "adapter", at, title="mid", lines=["1x1 convolution"]),
        box("losses_hint", "loss", at + 1, title="hint", edge="hint", marks=["kernel hint_rows"]),
        box("losses_label", "loss", at + 2, at + 4, title="label", edge="label", marks=["fused"]),
        box("total", "total", at + 3, lines=["0.5 label + (linear 1 to 0) hint"]),
    ]
    if hostile:
        teacher[0]["title"], student[0]["title"] = SCRIPT, LONG
        teacher[0]["lines"] = [LONG, "\"quotes\" & 'more' <b>"]
        pool[2].update(title=EMOJI, path=RTL, target=SCRIPT)
        parts[0].update(title=RTL, marks=[SCRIPT, LONG])
        parts[3]["lines"] = ["\u0000 \u0008 \ud800 broken \u2028 line"]
    head = len(teacher) - 1
    cut = {**teacher[head], "id": "teacher_cut", "faded": True, "taps": [], "after": "teacher_1",
           "why": "cut: nothing reads them"}  # fmt: skip
    clusters = [{"id": m, "title": f"{m}  cifar/net", "role": m} for m in ("teacher", "student")]
    written = [*front, *teacher, *student, *parts]
    pruned = [*front, teacher[0], *student, *parts, cut]
    down = [1 - i / 100 for i in range(101)]
    tau = words(None, [4 + i / 50 for i in range(101)], "linear 4 to 6")
    sums = {"flops_forward": 900, "flops_backward": 100, "bytes_forward": 10, "bytes_backward": 5,
            "kept_bytes": 5, "parameters": 77}  # fmt: skip
    memory = {"trained": 7, "kept": 9}
    cost = {"batch": 13, "batch_from": "example", "total": sums, "owners": {"teacher": sums},
            "roles": {"teacher": sums}, "memory": memory, "peak_bytes": 16}  # fmt: skip
    return {
        "name": name,
        "batch": {"image": ["B", 1, 8, 8], "label": ["B"]},
        "example": {"B": 13},
        "epochs": 60,
        "weights": {
            "hint": words(None, down, "linear 1 to 0"),
            "label": words(0.5),
        },
        "steered": {"losses.soft.tau": tau},
        "models": {"teacher": {"source": "cifar/net", "trainable": False, "capture": "fx"}},
        "links": {},
        "losses": {"hint": {"use": "hint", "reads": ["mid"], "weight": "linear 1 to 0"}},
        "signals": {},
        "cost": {**cost, "before_passes": {k: v for k, v in cost.items() if "batch" not in k}},
        "steps": [
            step("as written", written, clusters),
            step("prune", pruned, clusters, did=["cut 1 operation of teacher"]),
            step("as compiled", pruned, clusters, declined=["freeze: no batch-norm"]),
        ],
        "passes": [{"name": "prune", "did": ["cut 1 operation of teacher"], "declined": []}],
        "nodes": pool,
    }  # fmt: skip


def step(
    title: str,
    boxes: list[Any],
    clusters: list[Any],
    did: Sequence[str] = (),
    declined: Sequence[str] = (),
) -> dict[str, Any]:
    """The graph between two passes."""
    return {"title": title, "did": [*did], "declined": [*declined], "clusters": clusters,
            "boxes": boxes}  # fmt: skip


def scene(*legs: dict[str, Any], name: str = "pair") -> dict[str, Any]:
    """The whole of what a page is made from."""
    return {
        "kdgraph_scene": 1,
        "name": name,
        "versions": {"kdgraph": "0.1.0"},
        "legs": list(legs) or [leg(None)],
    }
