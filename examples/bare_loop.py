"""kdgraph in a loop of one's own: `python bare_loop.py`, or on two processes
`torchrun --nproc-per-node 2 bare_loop.py`."""

from __future__ import annotations

import argparse
import os

import torch
from digits import SPEC, accuracy, loader, pair
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import kdgraph  # kdgraph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, help="stop after so many")
    parser.add_argument("--save", default="student.safetensors")
    args = parser.parse_args()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu"
    if world > 1:
        distributed.init_process_group("nccl" if cuda else "gloo")

    step = kdgraph.compile(SPEC, models=pair()).to(device)  # kdgraph
    model = DistributedDataParallel(step) if world > 1 else step
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1, momentum=0.9)
    batches = loader(64, rank, world)
    before, done = accuracy(step.student), 0
    for epoch in range(args.epochs):
        batches.sampler.set_epoch(epoch)
        for i, batch in enumerate(batches):
            if done == args.steps:
                break
            step.set_progress(epoch=epoch + i / len(batches), iteration=done)  # kdgraph
            out = model(**{name: value.to(device) for name, value in batch.items()})
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
            done += 1
            if rank == 0 and done % 4 == 1:
                print(f"step {done}: loss {out.loss.item():.4f}")
    if rank == 0:
        print(f"accuracy {before:.4f} -> {accuracy(step.student):.4f}")
        step.save_student(args.save)  # kdgraph
    if world > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
