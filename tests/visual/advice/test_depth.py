from __future__ import annotations

from typing import Any

import pytest

LINK = """
links:
  mid: {student: student.layer1, teacher: teacher.layer3}
losses:
  hint: {use: hint, link: mid}
"""
EDGE = """
losses:
  alike: {use: similarity, student: student.layer3, teacher: teacher.layer1}
  again: {use: cka, student: student.layer3, teacher: teacher.layer1}
"""


def test_a_link_from_early_to_late(say: Any) -> None:
    (found,) = say("depth", LINK)
    assert found.code == "KD601"
    assert found.severity == "warning"
    assert found.span.line == 12
    assert found.message == (
        "link 'mid' pairs very different depth: 'student.layer1' lies behind 47% of its model's "
        "FLOPs and sees 35% of the input, 'teacher.layer3' lies behind 100% of its model's FLOPs "
        "and sees 100% of the input"
    )


def test_an_edge_that_reads_taps_itself_is_told_once(say: Any) -> None:
    (found,) = say("depth", EDGE)
    assert "'alike' pairs very different depth" in found.message


@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer3", "logits"])
def test_like_stages_are_fine(say: Any, layer: str) -> None:
    rest = EDGE.replace("student.layer3", f"student.{layer}")
    assert say("depth", rest.replace("teacher.layer1", f"teacher.{layer}")) == []


WIDE = """
kdgraph: 1
name: wide
batch: {image: {shape: [B, 3, 64, 64]}}
models:
  teacher:
    source: timm/vit_tiny_patch16_224
    args: {img_size: 64, depth: 4}
    taps: {mid: blocks.BLOCK}
  student: {source: cifar/resnet8, args: {width: 0.25}, taps: {mid: layer1}}
losses:
  alike: {use: similarity, student: student.mid, teacher: teacher.mid}
"""


def test_attention_sees_all_where_a_convolution_sees_little(say: Any) -> None:
    (found,) = say("depth", "", head=WIDE.replace("BLOCK", "1"))
    assert "pairs very different receptive field" in found.message
    assert "sees 9% of the input, 'teacher.mid'" in found.message
    assert "sees 100% of the input" in found.message
