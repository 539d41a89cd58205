"""One of several processes that share a batch: ``worker.py CASES FILE``; see test_ranks.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from torch import distributed


def main(cases: str, out: str) -> None:
    spec = importlib.util.spec_from_file_location("cases", cases)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cases"] = module
    spec.loader.exec_module(module)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    found = module.run()
    every = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, found)
    if distributed.get_rank() == 0:
        torch.save(every, Path(out))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
