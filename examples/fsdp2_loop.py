"""kdgraph on PyTorch's FSDP2, student and teacher sharded, with checkpoints that another number of
processes can take up: `torchrun --nproc-per-node 2 fsdp2_loop.py`."""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch
from digits import SPEC, accuracy, loader, pair
from safetensors.torch import save_file
from torch import distributed
from torch.distributed import checkpoint
from torch.distributed.checkpoint import state_dict as states
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import kdgraph  # kdgraph


def state(step: torch.nn.Module, optimizer: torch.optim.Optimizer, done: int) -> dict[str, Any]:
    model, moments = states.get_state_dict(step, optimizer)
    return {"model": model, "optimizer": moments, "done": done}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, help="stop after so many")
    parser.add_argument("--bf16", action="store_true", help="blocks compute in bfloat16")
    parser.add_argument("--checkpoint", help="a folder to write at the end, by all processes")
    parser.add_argument("--resume", help="a folder to go on from, written by any number of them")
    parser.add_argument("--save", default="student.safetensors")
    args = parser.parse_args()
    if "WORLD_SIZE" not in os.environ:
        parser.error("start it with torchrun --nproc-per-node N")
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (int(os.environ["WORLD_SIZE"]),))

    nets = pair()
    before = accuracy(nets["student"])
    step = kdgraph.compile(SPEC, models=nets).to(kind)  # kdgraph
    policy = MixedPrecisionPolicy(torch.bfloat16 if args.bf16 else None, output_dtype=torch.float32)
    for block in (*nets["student"].blocks, *nets["teacher"].blocks):
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(step, mesh=mesh)  # what is left of the student, and the adapters
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1, momentum=0.9)
    batches, done = loader(64, mesh.get_rank(), mesh.size()), 0
    if args.resume:
        found = state(step, optimizer, done)
        checkpoint.load(found, checkpoint_id=args.resume)
        states.set_state_dict(
            step, optimizer, model_state_dict=found["model"], optim_state_dict=found["optimizer"]
        )
        done = found["done"]
    for epoch in range(done // len(batches), args.epochs):
        batches.sampler.set_epoch(epoch)
        for i, batch in enumerate(batches):
            if done == args.steps or epoch * len(batches) + i < done:
                continue
            step.set_progress(epoch=epoch + i / len(batches), iteration=done)  # kdgraph
            out = step(**{name: value.to(kind) for name, value in batch.items()})
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
            done += 1
            if mesh.get_rank() == 0 and done % 4 == 1:
                print(f"step {done}: loss {out.loss.item():.4f}")
    if args.checkpoint:
        checkpoint.save(state(step, optimizer, done), checkpoint_id=args.checkpoint)
    whole = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = states.get_model_state_dict(nets["student"], options=whole)
    if mesh.get_rank() == 0:
        save_file(weights, args.save)
        plain = pair()["student"]
        plain.load_state_dict(weights)
        print(f"accuracy {before:.4f} -> {accuracy(plain):.4f}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
