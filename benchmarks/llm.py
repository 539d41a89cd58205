"""What the specs of ``specs/llm`` give in a short run, by a bare loop over the compiled step.

``smollm2``: perplexity on held-out text of the teacher, of the student as it starts, and of the
student after as many steps on the same batches in the same order: on the labels alone, with the
teacher in the step, and with a top-k book in its place. ``minilm``: how the student's similarities
of held-out pairs go with the teacher's (Spearman's and Pearson's correlation), and the cosine of
their embeddings, before and after.

    python benchmarks/llm.py smollm2 --steps 200
    python benchmarks/llm.py minilm --steps 200

``--set`` overrides keys of the spec, as for ``kdgraph train``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

import kdgraph
from kdgraph.networks import build_network
from kdgraph.spec.language import Spec
from kdgraph.train import build_book
from kdgraph.train.data._open import open_data
from kdgraph.train.data._split import Split
from kdgraph.train.data.base import DataSet
from kdgraph.train.derive import student_alone
from kdgraph.train.metrics import build_metrics
from kdgraph.train.score import find_score

SPECS = Path(__file__).parents[1] / "specs" / "llm"
Batch = dict[str, Tensor]


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["smollm2", "minilm"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    run = smollm2 if given.what == "smollm2" else minilm
    spec = kdgraph.load_spec(SPECS / f"{given.what}.yaml", set=given.set)
    for row in run(spec, given.steps, given.lr):
        print(json.dumps(row), flush=True)


def batches(part: Split, size: int) -> Iterator[tuple[Tensor, Batch]]:
    """The rows of a part in order, with their numbers."""
    for at in range(0, len(part), size):
        ids = torch.arange(at, min(at + size, len(part)))
        yield ids, part.rows(ids.tolist())


def trained(
    step: kdgraph.DistillModule, steps: int, lr: float, batch: Callable[[int], Batch]
) -> dict[str, Any]:
    """Steps of AdamW, with warm-up; how long they took."""
    learn = [p for p in step.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learn, lr=lr, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    step.check_values = False
    start, losses = time.perf_counter(), {}
    for number in range(steps):
        out = step(**batch(number))
        optimizer.zero_grad()
        out.loss.backward()
        nn.utils.clip_grad_norm_(learn, 1.0)
        optimizer.step()
        rate.step()
        losses = {name: round(value.item(), 4) for name, value in out.losses.items()}
    return {"steps": steps, "losses": losses, "seconds": round(time.perf_counter() - start)}


def smollm2(spec: Spec, steps: int, lr: float) -> Iterator[dict[str, Any]]:
    """One row for each model that is scored."""
    assert spec.data is not None
    size = spec.data.batch_size
    _, splits = open_data(spec)
    order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))
    teacher = build_network(spec, "teacher", ())

    def perplexity(model: nn.Module, name: str) -> float:
        assert spec.train is not None
        score = find_score(spec, name)
        metric = build_metrics(spec.train.metrics, score.classes)["perplexity"]
        model.eval()
        with torch.no_grad():
            for _, batch in batches(splits.val, 16):
                score.update(metric, score.predict(model, batch), batch)
        return round(float(metric.compute()), 2)

    def rows(number: int) -> Tensor:
        return order[torch.arange(number * size, (number + 1) * size) % len(order)]

    places = int(sum((b["label"] != -100).sum() for _, b in batches(splits.val, 64)))
    yield {"model": "teacher", "perplexity": perplexity(teacher, "teacher"), "places": places}
    live = kdgraph.compile(spec, models={"teacher": teacher})
    yield {"model": "student, before", "perplexity": perplexity(live.student, "student")}
    start = {name: value.clone() for name, value in live.student.state_dict().items()}
    done = trained(live.train(), steps, lr, lambda n: splits.train.rows(rows(n).tolist()))
    yield {"model": "student, live", "perplexity": perplexity(live.student, "student"), **done}

    live.student.load_state_dict(start)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        built = build_book(spec, out=folder, batch_size=16)
        seconds = round(time.perf_counter() - began)
        dense = built.rows * splits.train.rows([0])["tokens"].numel() * 49152 * 4
        yield {"book": built.bytes, "dense": dense, "rows": built.rows, "seconds": seconds}
        booked = kdgraph.compile(spec, models={"student": live.student}, book=folder)
        assert booked.book is not None
        known = booked.spec.batch.keys()

        def paged(number: int) -> Batch:
            ids = rows(number)
            found = splits.train.rows(ids.tolist()) | booked.book(ids)
            return {name: value for name, value in found.items() if name in known}

        done = trained(booked.train(), steps, lr, paged)
    yield {"model": "student, book", "perplexity": perplexity(live.student, "student"), **done}

    live.student.load_state_dict(start)
    alone = kdgraph.compile(student_alone(spec), models={"student": live.student})
    known_alone = alone.spec.batch.keys()

    def plain(number: int) -> Batch:
        found = splits.train.rows(rows(number).tolist())
        return {name: value for name, value in found.items() if name in known_alone}

    done = trained(alone.train(), steps, lr, plain)
    yield {"model": "student, alone", "perplexity": perplexity(live.student, "student"), **done}


def minilm(spec: Spec, steps: int, lr: float) -> Iterator[dict[str, Any]]:
    """One row before and one after."""
    assert isinstance(spec.data, DataSet)
    size, splits = spec.data.batch_size, spec.data.load(spec.folder)  # which nothing is scored on
    order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))
    teacher = build_network(spec, "teacher", ()).eval()
    step = kdgraph.compile(spec, models={"teacher": teacher})

    def embedded(model: nn.Module, side: str) -> Tensor:
        found = []
        with torch.no_grad():
            for _, batch in batches(splits.val, 64):
                mask = batch[f"{side}_mask"]
                last = model(input_ids=batch[side], attention_mask=mask).last_hidden_state
                found.append((last * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True))
        return torch.cat(found)

    wanted = {side: embedded(teacher, side) for side in ("summary", "code")}

    def compared() -> dict[str, Any]:
        step.eval()
        own = {side: embedded(step.student, side) for side in wanted}
        step.train()
        # every summary with every code: most pairs do not belong together, as in a search
        mine, theirs = (
            nn.functional.normalize(e["summary"]) @ nn.functional.normalize(e["code"]).T
            for e in (own, wanted)
        )
        return {
            "pairs": mine.numel(),
            "spearman": round(float(spearman_corrcoef(mine.flatten(), theirs.flatten())), 4),
            "pearson": round(float(pearson_corrcoef(mine.flatten(), theirs.flatten())), 4),
            "found": round(float((mine.argmax(1) == torch.arange(len(mine))).float().mean()), 3),
            "teacher_found": round(
                float((theirs.argmax(1) == torch.arange(len(mine))).float().mean()), 3
            ),
            **{
                f"cosine_{side}": round(float(cosine_similarity(own[side], wanted[side]).mean()), 4)
                for side in wanted
            },
        }

    yield {"model": "student, before", "rows": len(splits.train), **compared()}

    def rows(number: int) -> Batch:
        at = order[torch.arange(number * size, (number + 1) * size) % len(order)]
        return splits.train.rows(at.tolist())

    done = trained(step.train(), steps, lr, rows)
    yield {"model": "student, after", **compared(), **done}


if __name__ == "__main__":
    main()
