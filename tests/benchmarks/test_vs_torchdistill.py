"""Both sides of every comparison are equal, at small sizes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("torchvision")
pytest.importorskip("torchdistill", reason="torchdistill is not installed (the extra `bench`)")

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from versus import chart, output
from versus.cases import CASES
from versus.machine import hardware, slug
from versus.sizes import Sizes
from versus.timing import TOLERANCE, Difference, Pair, Side, Times, compare, peak_memory, take_turns

CPU = torch.device("cpu")
SMALL = Sizes(
    CPU,
    images=4,
    side=64,
    patches=2,
    patched_side=32,
    logits=(16, 12),
    maps=(2, 3, 4, 6),
    classes=10,
    teacher="resnet18",
    vit={"embed_dim": 24, "num_heads": 3},
)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if not case.compiled])
def test_sides_are_equal(name: str) -> None:
    pair = CASES[name].make(SMALL)
    found = compare(pair, CPU)
    assert found.loss <= TOLERANCE
    assert found.gradient <= TOLERANCE
    assert len(pair.ours.trained) > 1


def squares(factor: float) -> Side:
    x = torch.ones(3, requires_grad=True)
    return Side(lambda: factor * x.square().sum(), {"x": x})


def test_other_losses_are_refused() -> None:
    with pytest.raises(ValueError, match="losses differ"):
        compare(Pair(squares(1), squares(1.01)), CPU)


def test_other_gradients_are_refused() -> None:
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="gradients of 'x' differ"):
        compare(Pair(Side(lambda: x.sum(), {"x": x}), squares(1)), CPU)


def test_no_gradients_are_refused() -> None:
    still = Side(lambda: torch.ones(1, requires_grad=True).sum(), {"x": torch.ones(1)})
    with pytest.raises(ValueError, match="nothing is trained"):
        compare(Pair(still, still), CPU)


def test_ratio_is_theirs_over_ours() -> None:
    ratio, low, high = Times([1.0, 2.0, 4.0], [3.0, 6.0, 8.0]).ratio()
    assert ratio == 3.0
    assert (low, high) == (2.0, 3.0)


def test_peak_memory_is_beyond_what_is_held() -> None:
    x = torch.ones(250_000, requires_grad=True)  # a megabyte
    side = Side(lambda: x.exp().sum(), {"x": x})
    # exp(x) and the gradient, which may be exp(x) times a number in place of a third
    assert 2 <= peak_memory(side, CPU, autocast=False) <= 3.1


def test_rows(tmp_path: Path) -> None:
    pair = Pair(squares(1), squares(1))
    times = take_turns(pair, CPU, rounds=2, seconds=1, autocast=False)
    case = CASES["spatial-correlation"]
    row: dict[str, Any] = output.row(case, Difference(0.0, 0.0), times, 1.0, 60.0)
    assert {"ours_ms", "theirs_ms", "ratio", "target"} <= row.keys()
    assert row["target"] == 15
    assert row["memory_met"]
    path = output.write(tmp_path, [{"case": "spatial-correlation", **row}], SMALL)
    told = json.loads(path.read_text())
    assert told["cases"][0]["rounds"] == 2
    assert told["environment"]["torch"] == torch.__version__.split("+")[0]
    assert path.name == f"vs_torchdistill-{slug(hardware(CPU))}.json"


def test_chart_of_lines() -> None:
    series = {"vit": [(12, 0.5), (24, 1.5)], "linear": [(0, 0), (24, 2)]}
    drawn = ET.fromstring(chart.lines(series, title="Seconds", below="layers", dashed="linear"))
    assert drawn.tag.endswith("svg")
    assert [e.text for e in drawn if e.text and e.text.isdecimal()][-3:] == ["0", "12", "24"]
    found = [e for e in drawn if e.tag.endswith("polyline")]
    assert [line.get("stroke-dasharray") is not None for line in found] == [False, True]
    assert sum(e.tag.endswith("circle") for e in drawn) == 2  # none where nothing was measured


def test_names_of_hardware_become_names_of_files() -> None:
    assert slug("Intel(R) Xeon(R) Processor @ 2.50GHz") == "intel-xeon-processor-2-50ghz"
