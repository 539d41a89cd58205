"""kdgraph under Accelerate: `python accelerate_loop.py`, or on two processes
`torchrun --nproc-per-node 2 accelerate_loop.py` (on GPUs `accelerate launch` does as well)."""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from digits import SPEC, accuracy, loader, pair

import kdgraph  # kdgraph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, help="stop after so many")
    parser.add_argument("--save", default="student.safetensors")
    args = parser.parse_args()
    accelerator = Accelerator(cpu=not torch.cuda.is_available())

    step = kdgraph.compile(SPEC, models=pair())  # kdgraph
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1, momentum=0.9)
    batches = loader(64 // accelerator.num_processes)  # Accelerate deals them out
    model, optimizer, batches = accelerator.prepare(step, optimizer, batches)
    before, done = accuracy(step.student), 0
    for epoch in range(args.epochs):
        batches.set_epoch(epoch)
        for i, batch in enumerate(batches):
            if done == args.steps:
                break
            step.set_progress(epoch=epoch + i / len(batches), iteration=done)  # kdgraph
            out = model(**batch)
            optimizer.zero_grad()
            accelerator.backward(out.loss)
            optimizer.step()
            done += 1
            if done % 4 == 1:
                accelerator.print(f"step {done}: loss {out.loss.item():.4f}")
    accelerator.print(f"accuracy {before:.4f} -> {accuracy(step.student):.4f}")
    if accelerator.is_main_process:
        step.save_student(args.save)  # kdgraph
    accelerator.end_training()


if __name__ == "__main__":
    main()
