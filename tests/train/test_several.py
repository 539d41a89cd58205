"""Several processes train to what one trains to, and go on from each other's checkpoints."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import kdgraph
from kdgraph import train
from kdgraph.errors import DataError
from kdgraph.train import checkpoint
from tests.book.small import content

NETS = """
from torch import nn

def mlp(width=12):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, 10),
    )
"""
NET = {"source": "python/several_nets:mlp", "taps": {"logits": "output", "mid": "2"}}
SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "several",
    "batch": {
        "image": {"shape": ["B", 1, 8, 8]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 10},
    },
    "models": {"teacher": {**NET, "args": {"width": 24}}, "student": NET},
    "links": {"mid": {"student": "student.mid", "teacher": "teacher.mid"}},
    "losses": {
        "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "soft": {"use": "soft_target", "student": "student.logits",
                 "teacher": "teacher.logits", "tau": 2},
        "hint": {"use": "hint", "link": "mid"},
    },
    # parts of 13 and 12 rows; the last batch of validation has 8
    "data": {"use": "digits", "limit": 100, "batch_size": 25, "augment": {"shift": 1}},
    "train": {
        "epochs": 2,
        "optimizer": {"use": "AdamW", "lr": 0.01, "groups": [{"params": "*.bias", "lr": 0.02}]},
        "scheduler": {"use": "CosineAnnealingLR", "T_max": "auto", "interval": "step"},
        "metrics": ["accuracy", {"use": "calibration_error", "n_bins": 5}],
        "grad_clip": 1.0,
        "log_every": 1,
    },
}  # fmt: skip
HELPER = {"use": "cross_entropy", "student": "helper.logits", "target": "label"}
TURNS: dict[str, Any] = {
    **SPEC,
    "models": {**SPEC["models"], "helper": {**NET, "trainable": True}},
    "losses": {**SPEC["losses"], "of_helper": HELPER},
    "stages": [
        {
            "name": "turns", "epochs": 1, "before": [{"use": "reinit", "modules": "student.5"}],
            "phases": [
                {"name": "student", "steps": 1, "trainable": {"helper": False},
                 "losses": {"of_helper": 0}},
                {"name": "helper", "steps": 1, "trainable": {"student": False},
                 "losses": {"label": 0, "soft": 0, "hint": 0}},
            ],
        },
        {
            "name": "pruned", "epochs": 2, "trainable": {"helper": False},
            "losses": {"of_helper": 0, "hint": 0},
            "during": [{"use": "prune", "module": "student.3", "statistic": "rate", "eps": 0.3,
                        "start": 1, "every": 9}],
        },
    ],
}  # fmt: skip


def changed(spec: dict[str, Any], **parts: Any) -> dict[str, Any]:
    spec = copy.deepcopy(spec)
    for name, values in parts.items():
        spec[name] |= values
    return spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("several")
    (folder / "several_nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


def together(world: int, folder: Path, jobs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What each of several processes found of some jobs."""
    path = folder / f"jobs-{world}.json"
    path.write_text(json.dumps(jobs))
    command = [
        sys.executable, "-P", "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={world}", str(Path(__file__).with_name("several_worker.py")), str(path),
    ]  # fmt: skip
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"jobs-{world}-{r}.json").read_text()) for r in range(world)]


def alone(spec: dict[str, Any], out: Path, **how: Any) -> dict[str, Any]:
    run = train.run(spec, out=out, trust=["several_nets"], device="cpu", **how).runs[0]
    return {"metrics": run.metrics, "val": run.val, "steps": run.steps}


SMALL_END = changed(SPEC, data={"batch_size": 257, "limit": 60})  # validation ends with one row
BOOK = changed(SPEC, train={"teacher": {"epochs": 1}}, data={"augment": None})
BEST = changed(SPEC, train={"keep": "best", "accumulate": 3})
PAST = changed(
    SPEC,
    models={"past": {"snapshot_of": "student", "taps": {"logits": "output"}}},
    losses={"self": {"use": "soft_target", "student": "student.logits", "teacher": "past.logits"}},
    train={"epochs": 3},
)


@pytest.fixture(scope="module")
def one(folder: Path) -> dict[str, Any]:
    """What single processes found: whole runs, and half a one."""
    found = {
        "whole": alone(SPEC, folder / "one/whole"),
        "turns": alone(TURNS, folder / "one/turns"),
        "small_end": alone(SMALL_END, folder / "one/small_end", steps=1),
        "best": alone(BEST, folder / "one/best"),
        "past": alone(PAST, folder / "one/past"),
    }
    alone(SPEC, folder / "one/half", steps=5)
    for name in ("from_one", "from_one_sharded"):
        shutil.copytree(folder / "one/half", folder / "two" / name)
    return found


@pytest.fixture(scope="module")
def two(folder: Path, one: dict[str, Any]) -> list[dict[str, Any]]:
    out = {name: str(folder / "two" / name) for name in (
        "whole", "turns", "small_end", "best", "half", "sharded", "half_sharded", "from_one",
        "from_one_sharded", "few", "before", "between", "past",
    )}  # fmt: skip
    how: dict[str, dict[str, Any]] = {
        name: {"spec": SPEC, "out": place} for name, place in out.items()
    }
    how["turns"]["spec"], how["best"]["spec"] = TURNS, BEST
    how["small_end"] |= {"spec": SMALL_END, "steps": 1}
    how["few"]["spec"] = changed(SPEC, data={"batch_size": 1})
    how["half"]["steps"] = how["half_sharded"]["steps"] = 5
    how["sharded"] |= {"strategy": "fsdp2", "spec": BEST}
    how["half_sharded"]["strategy"] = "fsdp2"
    how["past"] |= {"strategy": "fsdp2", "spec": PAST}
    how["from_one"]["resume"] = how["from_one_sharded"]["resume"] = True
    how["from_one_sharded"]["strategy"] = "fsdp2"
    how["before"]["dies"], how["between"]["dies"] = "before", "between"
    for place in ("before", "between"):
        how[f"{place}, resumed"] = {"spec": SPEC, "out": out[place], "resume": True}
    how["book"] = {"spec": BOOK, "out": str(folder / "two/book"), "book": True}
    return together(2, folder, how)


def weights(folder: Path, run: str) -> dict[str, Tensor]:
    return load_file(folder / run / "student.safetensors")


def trained(run: Path) -> dict[str, Tensor]:
    """What the checkpoint of a run holds of networks and adapters."""
    return held(run, "models.", "adapters.")


def held(run: Path, *parts: str) -> dict[str, Tensor]:
    state = checkpoint.read(run / "distilled/seed-0/last.ckpt")["distill"]
    return {n: v for n, v in state.items() if n.startswith(parts)}


def check_close(folder: Path, run: str, other: str) -> None:
    torch.testing.assert_close(weights(folder, run), weights(folder, other), rtol=1e-4, atol=1e-5)


def check_equal(folder: Path, run: str, other: str) -> None:
    torch.testing.assert_close(weights(folder, run), weights(folder, other), rtol=0, atol=0)


def check_figures(found: list[dict[str, Any]], name: str, wanted: dict[str, Any]) -> None:
    """Of every process, since what it decides by has to be the same on all."""
    for one in found:
        for part in ("metrics", "val"):
            assert one[name][part] == pytest.approx(wanted[part], abs=1e-5)
        assert one[name]["steps"] == wanted["steps"]


@pytest.mark.parametrize("name", ["whole", "turns", "small_end", "best"])
def test_two_are_as_one(folder: Path, one: Any, two: Any, name: str) -> None:
    check_close(folder, f"two/{name}", f"one/{name}")
    check_figures(two, name, one[name])


def test_what_is_logged_is_of_all_rows(folder: Path, two: Any) -> None:
    curves = []
    for kind in ("one", "two"):
        report = json.loads((folder / kind / "whole/report.json").read_text())
        curves.append({n: c["values"] for n, c in report["runs"][0]["curves"].items()})
    assert curves[0].keys() == curves[1].keys()
    assert {"loss", "epoch/loss", "grad_norm/soft", "agreement/teacher"} <= curves[0].keys()
    for name, values in curves[0].items():
        assert curves[1][name] == pytest.approx(values, rel=1e-3, abs=1e-5), name


def test_only_one_process_writes(folder: Path, two: Any) -> None:
    run = folder / "two/whole/distilled/seed-0"
    assert [p.name for p in (run / "csv").iterdir()] == ["version_0"]
    assert len(list(run.rglob("events.out.tfevents.*"))) == 2  # the curves, and the confusion
    assert not [p for p in run.iterdir() if p.name.startswith(".")]


def test_shards_are_as_copies(folder: Path, one: Any, two: Any) -> None:
    check_close(folder, "two/sharded", "one/best")
    check_figures(two, "sharded", one["best"])
    forms = {}
    for name in ("sharded", "whole"):
        state = folder / f"two/{name}/distilled/seed-0/last.ckpt"
        files = [load_file(p) for p in sorted(state.glob("*.safetensors"))]
        forms[name] = [f["distill/models.student.1.weight"].shape for f in files
                       if "distill/models.student.1.weight" in f]  # fmt: skip
    assert forms == {"sharded": [(6, 64), (6, 64)], "whole": [(12, 64)]}


def test_a_snapshot_of_shards_is_that_of_the_whole(folder: Path, one: Any, two: Any) -> None:
    check_close(folder, "two/past", "one/past")
    check_figures(two, "past", one["past"])
    found, wanted = (held(folder / kind / "past", "snapshots.") for kind in ("two", "one"))
    assert wanted.keys() == {n.replace("models.student", "snapshots.past") for n in held(
        folder / "one/past", "models.student.")}  # fmt: skip
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_two_go_on_where_two_stopped(folder: Path, two: Any) -> None:
    for place in ("before", "between"):
        assert all(found[place] == {"killed": True} for found in two)
        check_equal(folder, f"two/{place}", "two/whole")


@pytest.mark.parametrize("name", ["from_one", "from_one_sharded"])
def test_two_go_on_where_one_stopped(folder: Path, one: Any, two: Any, name: str) -> None:
    check_close(folder, f"two/{name}", "one/whole")
    check_figures(two, name, one["whole"])


@pytest.mark.parametrize("name", ["half", "half_sharded"])
def test_one_goes_on_where_two_stopped(
    folder: Path, one: Any, two: Any, name: str, tmp_path: Path
) -> None:
    shutil.copytree(folder / "two" / name, tmp_path / "run")
    found = alone(SPEC, tmp_path / "run", resume=True)
    check_figures([{"run": found}], "run", one["whole"])
    torch.testing.assert_close(
        weights(tmp_path, "run"), weights(folder, "one/whole"), rtol=1e-4, atol=1e-5
    )
    assert (tmp_path / "run/distilled/seed-0/last.ckpt").is_file()


def test_accumulated_batches_are_one_large_one(folder: Path, tmp_path: Path) -> None:
    """Three are left of a step that four would make, and count no less for that."""
    for name, size, count in (("parts", 10, 4), ("whole", 30, 1)):
        spec = changed(
            SPEC,
            data={"limit": 30, "augment": None, "batch_size": size},
            train={"accumulate": count, "optimizer": {"use": "SGD", "lr": 0.1}},
        )
        assert alone(spec, tmp_path / name, steps=1)["steps"] == 1
    check_close(tmp_path, "parts", "whole")
    parts, whole = (trained(tmp_path / name) for name in ("parts", "whole"))
    assert any(name.startswith("adapters.mid") for name in whole)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_a_batch_with_no_row_for_a_process_is_refused(two: Any) -> None:
    assert all("2 processes cannot share a batch of 1 rows" in found["few"]["error"]
               for found in two)  # fmt: skip


def test_four_go_on_where_two_stopped(folder: Path, one: Any, two: Any) -> None:
    jobs: dict[str, dict[str, Any]] = {"whole": {"spec": SPEC, "out": str(folder / "four/whole")}}
    for name in ("half", "half_sharded"):
        shutil.copytree(folder / "two" / name, folder / "four" / name)
        jobs[name] = {"spec": SPEC, "out": str(folder / "four" / name), "resume": True}
    jobs["half_sharded"]["strategy"] = "fsdp2"
    four = together(4, folder, jobs)
    for name in jobs:
        check_close(folder, f"four/{name}", "one/whole")
        check_figures(four, name, one["whole"])


def test_a_book_of_two_is_that_of_one(folder: Path, two: Any, tmp_path: Path) -> None:
    """Its teacher is trained by both."""
    shutil.copytree(folder / "two/book/teachers", tmp_path / "teachers")
    done = train.build_book(BOOK, out=tmp_path, trust=["several_nets"], device="cpu")
    assert all(found["book"] == {"computed": done.computed, "finished": True} for found in two)
    assert done.computed == 100
    assert content(folder / "two/book") == content(tmp_path)


def test_a_folder_that_lacks_a_part_is_refused(folder: Path, two: Any, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder / "two/half_sharded", tmp_path / "run"))
    first, second = sorted(run.rglob("last.ckpt/*.safetensors"))
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(DataError, match=r"KD716.*last\.ckpt cannot be read: .*part"):
        alone(SPEC, run, resume=True)
    second.write_bytes(kept)
    first.unlink()  # what is left of a tensor reaches to its end, but not from its beginning
    with pytest.raises(DataError, match=r"KD716.*last\.ckpt cannot be read: .*part"):
        alone(SPEC, run, resume=True)


def test_an_unfinished_run_is_exported(folder: Path, two: Any, tmp_path: Path) -> None:
    run = folder / "two/half_sharded/distilled/seed-0"
    spec, out = kdgraph.load_spec(SPEC), tmp_path / "student.safetensors"
    kdgraph.export(spec, run / "last.ckpt", out, trust=["several_nets"])
    wanted = load_file(run / "weights.safetensors")
    torch.testing.assert_close(load_file(out), wanted, rtol=0, atol=0)


def test_what_a_folder_holds_is_read_without_processes(folder: Path, one: Any, two: Any) -> None:
    for name in ("whole", "best", "turns"):
        found = trained(folder / "two" / name)
        torch.testing.assert_close(found, trained(folder / "one" / name), rtol=1e-4, atol=1e-5)
    sharded = trained(folder / "two/sharded")
    torch.testing.assert_close(sharded, trained(folder / "one/best"), rtol=1e-4, atol=1e-5)
