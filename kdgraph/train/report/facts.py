"""With what a report was made: versions and the machine, without its names or paths."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

LIBRARIES = (
    "kdgraph", "torch", "lightning", "torchmetrics", "torchvision", "timm", "transformers",
    "numpy", "triton",
)  # fmt: skip


def machine(device: str) -> dict[str, str]:
    """What computes.

    Args:
        device: of the training, ``cuda:0``.
    """
    found = {"device": device, "system": f"{platform.system()} {platform.machine()}"}
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(torch.device(device))
        found["cuda"] = str(torch.version.cuda)
    if processor := _processor():
        found["processor"] = processor
    found["cores"] = str(os.cpu_count())
    found["threads of torch"] = str(torch.get_num_threads())
    return found


def _processor() -> str | None:
    """The name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), None)
