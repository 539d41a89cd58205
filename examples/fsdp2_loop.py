"""kdgraph on PyTorch's FSDP2, student and teacher sharded, with checkpoints that another number of
processes can take up: `torchrun --nproc-per-node 2 fsdp2_loop.py`."""

from __future__ import annotations

import argparse
import os

import torch
from digits import SPEC, accuracy, loader, pair
from safetensors.torch import save_file
from torch import distributed
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import kdgraph  # kdgraph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, help="stop after so many")
    parser.add_argument("--bf16", action="store_true", help="blocks compute in bfloat16")
    parser.add_argument("--checkpoint", help="a folder to write, by all processes")
    parser.add_argument("--resume", help="a folder to go on from, written by any number of them")
    parser.add_argument("--save", default="student.safetensors")
    args = parser.parse_args()
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    mesh = init_device_mesh(kind, (int(os.environ["WORLD_SIZE"]),))

    nets = pair()
    before = accuracy(nets["student"])
    step = kdgraph.compile(SPEC, models=nets).to(kind)  # kdgraph
    blocks = (
        MixedPrecisionPolicy(torch.bfloat16, output_dtype=torch.float32)
        if args.bf16
        else MixedPrecisionPolicy()
    )
    for block in (*nets["student"].blocks, *nets["teacher"].blocks):
        fully_shard(block, mesh=mesh, mp_policy=blocks, reshard_after_forward=True)
    fully_shard(step, mesh=mesh)  # what is left: stem, head, adapters
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1, momentum=0.9)
    batches, done = loader(64, mesh.get_rank(), mesh.size()), 0
    if args.resume:
        model_state, optimizer_state = get_state_dict(step, optimizer)
        state = {"model": model_state, "optimizer": optimizer_state, "done": done}
        checkpoint.load(state, checkpoint_id=args.resume)
        set_state_dict(
            step, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )
        done = state["done"]
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
        model_state, optimizer_state = get_state_dict(step, optimizer)
        checkpoint.save(
            {"model": model_state, "optimizer": optimizer_state, "done": done},
            checkpoint_id=args.checkpoint,
        )
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(nets["student"], options=whole)
    if mesh.get_rank() == 0:
        save_file(weights, args.save)
        plain = pair()["student"]
        plain.load_state_dict(weights)
        print(f"accuracy {before:.4f} -> {accuracy(plain):.4f}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
