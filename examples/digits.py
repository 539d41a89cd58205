"""What the examples share, and have nothing of kdgraph in: data, two networks, a score."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, default_collate

FOLDER = Path(__file__).parent
SPEC = FOLDER / "digits.yaml"
TEACHER = FOLDER / "teacher.safetensors"


class Net(nn.Module):
    """A small vision transformer: no batch norm, so that a batch can be cut in any way."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1)  # 4 x 4 patches
        self.place = nn.Parameter(torch.randn(16, width) / 10)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mean(1)))


def pair() -> dict[str, nn.Module]:
    """A trained teacher of 136,330 parameters and a student of 10,666 at its start."""
    if not TEACHER.is_file():
        raise SystemExit(f"there is no teacher yet: python {FOLDER / 'teacher.py'}")
    teacher = Net(64, 4)
    teacher.load_state_dict(load_file(TEACHER))
    torch.manual_seed(0)
    return {"teacher": teacher, "student": Net(24, 2)}


def images() -> tuple[TensorDataset, TensorDataset]:
    """1,029 for training and 510 for the test, of other writers: the file is in their order."""
    data = load_digits()
    image = (torch.from_numpy(data.images).float().unsqueeze(1) / 16 - 0.31) / 0.38
    label = torch.from_numpy(data.target).long()
    return TensorDataset(image[:1029], label[:1029]), TensorDataset(image[-510:], label[-510:])


def named(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Rows as a batch whose entries have the names that they have in the spec."""
    image, label = default_collate(rows)
    return {"image": image, "label": label}


def loader(batch: int = 64, rank: int = 0, world: int = 1) -> DataLoader[dict[str, Tensor]]:
    """Training batches, or what a process has of each; a sampler of torch's puts them in order."""
    train, _ = images()
    order: DistributedSampler[int] = DistributedSampler(train, world, rank, seed=0)
    return DataLoader(train, batch // world, sampler=order, drop_last=True, collate_fn=named)


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """On the digits held out."""
    device, was_training = next(model.parameters()).device, model.training
    image, label = (column.to(device) for column in images()[1].tensors)
    found = model.eval()(image).argmax(1) == label
    model.train(was_training)
    return found.float().mean().item()
