"""kdgraph under the Trainer of transformers: `python transformers_trainer.py`, or on two processes
`torchrun --nproc-per-node 2 transformers_trainer.py`."""

from __future__ import annotations

import argparse
import os

import torch
from digits import SPEC, accuracy, images, loader, named, pair
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

import kdgraph  # kdgraph
from kdgraph.integrations.transformers import Distillation  # kdgraph


class DigitsTrainer(Distillation, Trainer):  # kdgraph
    def get_train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self.accelerator.prepare(loader(self.args.per_device_train_batch_size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=-1, help="stop after so many")
    parser.add_argument("--save", default="student.safetensors")
    args = parser.parse_args()

    step = kdgraph.compile(SPEC, models=pair())  # kdgraph
    trainer = DigitsTrainer(
        model=step,
        args=TrainingArguments(
            output_dir="runs/transformers",
            num_train_epochs=args.epochs,
            max_steps=args.steps,
            per_device_train_batch_size=64 // int(os.environ.get("WORLD_SIZE", 1)),
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            label_names=["label"],
            logging_steps=4,
            logging_first_step=True,
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=images()[0],
        eval_dataset=images()[1],
        data_collator=named,
        optimizers=(torch.optim.SGD(step.parameters(), lr=0.1, momentum=0.9), None),
    )
    before = accuracy(step.student)
    trainer.train()
    if trainer.is_world_process_zero():
        print(f"accuracy {before:.4f} -> {accuracy(step.student):.4f}")
        step.save_student(args.save)  # kdgraph


if __name__ == "__main__":
    main()
