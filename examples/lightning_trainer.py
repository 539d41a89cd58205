"""kdgraph under Lightning: `python lightning_trainer.py`; on two processes with `--devices 2`."""

from __future__ import annotations

import argparse

import torch
from digits import SPEC, accuracy, loader, pair
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

import kdgraph  # kdgraph
from kdgraph.integrations.lightning import Distillation  # kdgraph


class Digits(Distillation):  # kdgraph
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return loader(64, self.global_rank, self.trainer.world_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=-1, help="stop after so many")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--save", default="student.safetensors")
    args = parser.parse_args()

    step = kdgraph.compile(SPEC, models=pair())  # kdgraph
    trainer = Trainer(
        max_epochs=args.epochs,
        max_steps=args.steps,
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
        use_distributed_sampler=False,
        log_every_n_steps=4,
        enable_checkpointing=False,
        default_root_dir="runs/lightning",
    )
    before = accuracy(step.student)
    trainer.fit(Digits(step))
    if trainer.is_global_zero:
        print(f"accuracy {before:.4f} -> {accuracy(step.student):.4f}")
        step.save_student(args.save)  # kdgraph


if __name__ == "__main__":
    main()
