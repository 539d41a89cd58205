"""A spec with small teachers whose weights lie in a file, so that every build is of the same."""

from __future__ import annotations

from pathlib import Path

import torch

from kdgraph.models.load import build_model
from kdgraph.models.weights import save_weights

TEXT = """\
kdgraph: 1
name: booked
batch:
  image: {shape: [B, 1, 8, 8]}
  label: {shape: [B], dtype: int64, classes: 10}
models:
  teacher:
    source: cifar/resnet8
    args: {in_channels: 1, width: 0.25}
    weights: teacher.safetensors
    taps: {mid: layer2, logits: output}
  student:
    source: cifar/resnet8
    args: {in_channels: 1, width: 0.25}
    taps: {mid: layer2, logits: output}
signals:
  target: {use: probabilities, of: teacher.logits, tau: 4}
losses:
  label: {use: cross_entropy, student: student.logits, target: label}
  soft: {use: soft_cross_entropy, student: student.logits, target: target, tau: 4}
  hint: {use: hint, student: student.mid, teacher: teacher.mid}
data: {use: digits, batch_size: 20, limit: 50, augment: {shift: 1}}
book: {views: 2}
train: {epochs: 2, optimizer: {use: SGD, lr: 0.1}}
"""


def spec_in(folder: Path, text: str = TEXT) -> Path:
    """The file of the spec, with its teacher's weights beside it."""
    torch.manual_seed(0)
    net = build_model("cifar/resnet8", {"in_channels": 1, "width": 0.25})
    save_weights(net, folder / "teacher.safetensors")
    path = folder / "kd.yaml"
    path.write_text(text)
    return path
