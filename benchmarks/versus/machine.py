"""What figures depend on: the machine and the versions."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import kdgraph

_PACKAGES = ("torch", "torchvision", "timm", "transformers", "torchdistill")


def hardware(device: torch.device) -> str:
    """The processor's or the GPU's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text() if info.exists() else "", re.M)
    return found[1] if found else platform.processor() or platform.machine()


def slug(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\([^)]*\)|@", " ", name.lower())).strip("-")


def told(device: torch.device, *packages: str) -> dict[str, Any]:
    """For a file of results; with the versions of further packages."""
    return {
        "hardware": hardware(device),
        "device": device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "kdgraph": kdgraph.__version__,
        **{name: found for name in (*_PACKAGES, *packages) if (found := _version(name))},
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="minutes"),
        "load": [round(x, 2) for x in os.getloadavg()],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
