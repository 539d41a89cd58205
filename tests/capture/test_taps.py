from __future__ import annotations

from collections import namedtuple
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kdgraph.capture import TapPath, capture, list_taps, parse_tap, resolve_taps
from kdgraph.errors import CaptureError

RUNGS = ("fx", "export", "ports")


@pytest.mark.parametrize(
    ("text", "tap"),
    [
        ("layer3", TapPath("layer3", "layer3")),
        ("layer3.0.conv1@2", TapPath("layer3.0.conv1@2", "layer3.0.conv1", call=2)),
        ("block:in", TapPath("block:in", "block", side="in")),
        ("block@3:in[1][0]", TapPath("block@3:in[1][0]", "block", 3, "in", 1, (0,))),
        ("block:out[-1].key", TapPath("block:out[-1].key", "block", reach=(-1, "key"))),
        ("encoder[0].a", TapPath("encoder[0].a", "encoder", reach=(0, "a"))),
        ("output", TapPath("output", "")),
        ("output.logits", TapPath("output.logits", "", reach=("logits",))),
        ("output[0]", TapPath("output[0]", "", reach=(0,))),
        ("output:out", TapPath("output:out", "output")),
        ("layer.output", TapPath("layer.output", "layer.output")),
    ],
)
def test_grammar(text: str, tap: TapPath) -> None:
    assert parse_tap(text) == tap


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "a@0", "a@", "a:on", "a[x]", "a b", "a:in[", "ä"]
)
def test_what_is_no_tap_is_said_to_be_none(text: str) -> None:
    with pytest.raises(CaptureError) as error:
        parse_tap(text)
    assert error.value.diagnostics[0].code == "KD401"


@given(st.text(max_size=30))
def test_any_text_gives_a_tap_or_a_diagnostic(text: str) -> None:
    with suppress(CaptureError):
        assert parse_tap(text).text == text


Pair = namedtuple("Pair", "first second")


@dataclass
class Result:
    logits: Tensor
    state: Tensor | None = None


class Part(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.proj = nn.Linear(4, 4)

    def forward(self, x: Tensor, scale: Tensor | None = None, *, shift: Any = None) -> Any:
        y = self.proj(x)
        if scale is not None:
            y = y * scale
        if shift is not None:
            y = y + shift
        return {
            "tensor": y,
            "tuple": (y, [y + 1, y + 2]),
            "dict": {"a": y, "b": {"c": y * 2}},
            "pair": Pair(y, y * 3),
            "result": Result(y * 4),
        }[self.kind]


class Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({k: Part(k) for k in ("tuple", "dict", "pair", "result")})
        self.shared = Part("tensor")

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Any:
        a, _ = self.parts["tuple"](x)
        b = self.parts["dict"](a)["a"]
        c = self.parts["pair"](b)
        d = self.parts["result"](c.first)
        e = self.shared(self.shared(d.logits, x), shift=b)
        return Result(self.shared(e), state=b)


TAPS = {
    "tuple": "parts.tuple[0]",
    "deep": "parts.tuple[1][-1]",
    "key": "parts.dict:out.b.c",
    "name": "parts.pair:out.second",
    "position": "parts.pair[1]",
    "field": "parts.result:out.logits",
    "second": "shared@2",
    "third input": "shared@3:in",
    "argument": "shared:in[1]",
    "keyword": "shared@2:in[1]",
    "inner": "shared.proj@3",
    "logits": "output.logits",
    "state": "output.state",
}


@pytest.mark.parametrize("rung", RUNGS)
def test_every_form_reads_what_hooks_read(rung: str, assert_same: Any) -> None:
    torch.manual_seed(0)
    captured = assert_same(Many(), {"x": torch.randn(3, 4)}, TAPS, rung)
    assert not captured.mode_dependent or rung == "export"


@pytest.mark.parametrize("rung", RUNGS)
def test_leaves_of_every_form(rung: str, assert_same: Any) -> None:
    """The same with modules that stay whole, whose results are only known when they run."""
    taps = {k: v for k, v in TAPS.items() if k != "inner"}
    captured = assert_same(Many(), {"x": torch.randn(3, 4)}, taps, rung)
    if rung == "fx":
        assert not any("field" in str(node.target) for node in captured.graph.nodes)


def problem(taps: dict[str, str], **kwargs: Any) -> Any:
    with pytest.raises(CaptureError) as error:
        capture(Many(), {"x": torch.randn(2, 4)}, taps, **kwargs)
    return error.value.diagnostics


@pytest.mark.parametrize(
    ("tap", "code", "words"),
    [
        ("shard", "KD201", "'shared'"),
        ("parts.prj", "KD201", "'parts"),
        ("model.pair", "KD201", "parts.pair"),
        ("parts.result.proj.logits", "KD201", "parts.result.proj:out.logits"),
        ("parts.dict:out.z", "KD202", "a, b"),
        ("parts.pair:out.secnd", "KD202", "second"),
        ("parts.tuple[2]", "KD202", "0, 1"),
        ("shared:in[5]", "KD202", "2 arguments"),
        ("shared@4", "KD402", "3 times"),
        ("parts", "KD402", "0 times"),
        ("parts.tuple", "KD403", "parts.tuple[0]"),
        ("parts.dict", "KD403", "parts.dict:out.a"),
        ("output", "KD403", "Result"),
    ],
)
def test_what_cannot_be_tapped(tap: str, code: str, words: str) -> None:
    (found,) = problem({"t": tap})
    assert found.code == code
    assert words in f"{found.message} {found.help}"


def test_all_wrong_names_at_once() -> None:
    found = problem({"a": "nothing", "b": "]", "c": "shared"})
    assert [d.code for d in found] == ["KD201", "KD401"]


def test_a_wrong_argument_name() -> None:
    with pytest.raises(CaptureError, match="extra"):
        capture(Many(), {"x": torch.randn(2, 4), "extr": torch.randn(2)}, {"t": "shared"})


def test_a_model_that_does_not_run() -> None:
    with pytest.raises(CaptureError) as error:
        capture(Many(), {"x": torch.randn(2, 5)}, {"t": "shared"})
    assert error.value.diagnostics[0].code == "KD405"
    assert "(2, 5)" in str(error.value)


def test_list_taps_names_what_can_be_tapped() -> None:
    model = Many()
    listed = list_taps(model, {"x": torch.randn(2, 4)})
    texts = {
        text: shape for info in listed for text, shape in zip(info.taps, info.shapes, strict=True)
    }
    assert texts["parts.tuple[1][0]"] == (2, 4)
    assert texts["parts.dict:out.b.c"] == (2, 4)
    assert texts["output.logits"] == (2, 4)
    assert {i.path: i.calls for i in listed}["shared"] == 3
    taps = {f"t{i}": text for i, text in enumerate(texts)}
    assert len(resolve_taps(model, taps)) == len(taps)
    captured = capture(model, {"x": torch.randn(2, 4)}, taps)
    assert captured.rung == "fx"
