from __future__ import annotations

import pytest
from torch import nn

import kdgraph
from kdgraph.spec.reserved import MODULE, why_not

TEXT = """
kdgraph: 1
name: reserved
batch:
  image: {{shape: [B, 1, 8, 8]}}
  {batch}: {{shape: [B], dtype: int64, classes: 10}}
models:
  student: {{source: cifar/resnet8, args: {{in_channels: 1}}, taps: {{logits: output}}}}
signals:
  {signal}: {{use: detach, of: student.logits}}
losses:
  {loss}: {{use: cross_entropy, student: student.logits, target: {batch}}}
  other: {{use: soft_target, student: student.logits, teacher: {signal}}}
"""


def codes(**names: str) -> list[str]:
    text = TEXT.format(**{"batch": "label", "signal": "still", "loss": "label_edge", **names})
    return [d.code for d in kdgraph.check(text)]


def test_every_attribute_of_a_module_is_known() -> None:
    found = {name: getattr(nn.ModuleDict, name, None) for name in dir(nn.ModuleDict())}
    # a library that was imported before may have added some of its own
    home = {n: getattr(v, "__module__", None) or "torch" for n, v in found.items()}
    own = {n for n, m in home.items() if m.startswith("torch")}
    assert {name for name in own if not name.startswith("__")} <= MODULE


@pytest.mark.parametrize(
    "names",
    [
        {"signal": "half"},
        {"signal": "__x"},
        {"loss": "type"},
        {"loss": "values"},
        {"batch": "self"},
    ],
    ids=str,
)
def test_such_names_are_refused(names: dict[str, str]) -> None:
    assert codes(**names) == ["KD209"]


@pytest.mark.parametrize("names", [{}, {"batch": "half"}, {"signal": "selfish"}], ids=str)
def test_others_are_fine(names: dict[str, str]) -> None:
    assert codes(**names) == []


def test_the_word_says_why() -> None:
    assert why_not("losses", "class") == "is a keyword of Python"
