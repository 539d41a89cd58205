"""Trains the teacher of the examples, in plain PyTorch; about half a minute on one core."""

from __future__ import annotations

import argparse

import torch
from digits import TEACHER, Net, accuracy, loader
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    epochs = parser.parse_args().epochs
    torch.manual_seed(1)
    model, batches = Net(64, 4), loader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * len(batches))
    for epoch in range(epochs):
        batches.sampler.set_epoch(epoch)
        for batch in batches:
            optimizer.zero_grad()
            cross_entropy(model(batch["image"]), batch["label"]).backward()
            optimizer.step()
            scheduler.step()
    save_file(model.state_dict(), TEACHER)
    print(f"teacher: {accuracy(model):.4f} of the digits held out; {TEACHER}")


if __name__ == "__main__":
    main()
