"""Containers that a book could be kept in: random batches, size and writing of each.

The same rows of float16 logits are written by each library that is installed, in shards of equal
length, and random batches are read from files that are mapped where the library can.

    pip install safetensors pyarrow zarr pylance
    python benchmarks/book_containers.py --format json
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

# where PYTHONSAFEPATH is set, the folder of a script is not on the path
sys.path.append(str(Path(__file__).parent))

from versus.machine import hardware, slug, told

Read = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Writes and reads with each container, and prints what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--shard", type=int, default=4096, help="rows of a shard")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=200, help="batches read with each")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for a file of the results")
    options = parser.parse_args()
    chance = np.random.default_rng(0)
    rows = chance.standard_normal((options.rows, options.classes), np.float32).astype(np.float16)
    found = []
    for name, (module, write, opened) in CONTAINERS.items():
        try:
            importlib.import_module(module)
        except ImportError:
            continue
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), 0, rows[:32])  # some import more on first use
        with tempfile.TemporaryDirectory() as folder:
            found.append({"case": name, **measure(Path(folder), rows, write, opened, options)})
    if options.output:
        cpu = torch.device("cpu")
        path = options.output / f"book_containers-{slug(hardware(cpu))}.json"
        facts = told(cpu, "safetensors", "pyarrow", "zarr", "pylance")
        path.write_text(json.dumps({"environment": facts, "cases": found}, indent=2) + "\n")
    if options.format == "json":
        print(json.dumps(found, indent=2))
        return
    for row in found:
        figures = ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "case")
        print(f"{row['case']}: {figures}")


def measure(
    folder: Path, rows: np.ndarray, write: Any, opened: Any, options: argparse.Namespace
) -> dict[str, float]:
    """Seconds to write, bytes for each byte of content, milliseconds for a random batch."""
    start = time.perf_counter()
    for number in range(math.ceil(len(rows) / options.shard)):
        write(folder, number, rows[number * options.shard : (number + 1) * options.shard])
    written = time.perf_counter() - start
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    read: Read = opened(folder, options.shard)
    chance = np.random.default_rng(1)
    times = []
    for _ in range(options.rounds):
        ids = chance.integers(0, len(rows), options.batch)
        start = time.perf_counter()
        batch = read(ids)
        times.append(time.perf_counter() - start)
        assert np.array_equal(batch, rows[ids])
    return {
        "write_mb_s": rows.nbytes / 1e6 / written,
        "bytes_per_byte": size / rows.nbytes,
        "batch_ms": statistics.median(times) * 1e3,
        "batch_ms_p95": statistics.quantiles(times, n=20)[-1] * 1e3,
    }


def by_shard(ids: np.ndarray, shard: int, take: Callable[[int, np.ndarray], np.ndarray]) -> Any:
    """Rows of several shards in the order asked for."""
    number, local = np.divmod(ids, shard)
    out: np.ndarray | None = None
    for each in np.unique(number):
        where = np.flatnonzero(number == each)
        rows = take(int(each), local[where])
        out = np.empty((len(ids), *rows.shape[1:]), rows.dtype) if out is None else out
        out[where] = rows
    return out


def write_safetensors(folder: Path, number: int, rows: np.ndarray) -> None:
    """One file for each shard."""
    from safetensors.numpy import save_file

    save_file({"logits": rows}, folder / f"{number:05}.safetensors")


def open_safetensors(folder: Path, shard: int) -> Read:
    """Tensors over mapped files."""
    from safetensors import safe_open

    files = [
        safe_open(p, "pt").get_tensor("logits").numpy()
        for p in sorted(folder.glob("*.safetensors"))
    ]
    return lambda ids: by_shard(ids, shard, lambda n, local: files[n][local])


def write_arrow(folder: Path, number: int, rows: np.ndarray) -> None:
    """One IPC file for each shard, one record batch in it."""
    import pyarrow as pa

    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    batch = pa.record_batch({"logits": values})
    path = str(folder / f"{number:05}.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)


def open_arrow(folder: Path, shard: int) -> Read:
    """Record batches over mapped files, their buffers seen by NumPy without a copy."""
    import pyarrow as pa

    files = []
    for path in sorted(folder.glob("*.arrow")):
        column = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(0)
        files.append(column.flatten().to_numpy().reshape(len(column), -1))
    return lambda ids: by_shard(ids, shard, lambda n, local: files[n][local])


def open_arrow_take(folder: Path, shard: int) -> Read:
    """The same files as one table, read by Arrow's own ``take``."""
    import pyarrow as pa

    tables = [
        pa.ipc.open_file(pa.memory_map(str(p))).read_all() for p in sorted(folder.glob("*.arrow"))
    ]
    table = pa.concat_tables(tables)

    def read(ids: np.ndarray) -> np.ndarray:
        column = table.take(pa.array(ids)).column("logits").combine_chunks()
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(len(ids), -1)

    return read


def write_zarr(folder: Path, number: int, rows: np.ndarray) -> None:
    """One array for each shard, in chunks of 16 rows, not compressed."""
    import zarr

    made = zarr.create_array(
        str(folder / f"{number:05}.zarr"),
        shape=rows.shape, chunks=(16, rows.shape[1]), shards=(len(rows) // 16 * 16 or 16,
        rows.shape[1]), dtype=rows.dtype, compressors=None,
    )  # fmt: skip
    made[:] = rows


def open_zarr(folder: Path, shard: int) -> Read:
    """By orthogonal indexing; Zarr maps no files, and knows fsspec."""
    import zarr

    files = [zarr.open_array(str(p), mode="r") for p in sorted(folder.glob("*.zarr"))]
    return lambda ids: by_shard(ids, shard, lambda n, local: _ordered(files[n], local))


def _ordered(array: Any, local: np.ndarray) -> np.ndarray:
    unique, back = np.unique(local, return_inverse=True)
    found: np.ndarray = np.asarray(array.oindex[unique])[back]
    return found


def write_lance(folder: Path, number: int, rows: np.ndarray) -> None:
    """One data set; a shard is a fragment."""
    import lance
    import pyarrow as pa

    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    lance.write_dataset(pa.table({"logits": values}), str(folder / "book.lance"), mode="append"
                        if number else "create")  # fmt: skip


def open_lance(folder: Path, shard: int) -> Read:
    """By ``take``; Lance maps no files, and has an object store of its own."""
    import lance

    data = lance.dataset(str(folder / "book.lance"))

    def read(ids: np.ndarray) -> np.ndarray:
        column = data.take(ids).column("logits").combine_chunks()
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(len(ids), -1)

    return read


CONTAINERS: dict[str, tuple[str, Any, Any]] = {
    "safetensors": ("safetensors", write_safetensors, open_safetensors),
    "arrow": ("pyarrow", write_arrow, open_arrow),
    "arrow_take": ("pyarrow", write_arrow, open_arrow_take),
    "zarr": ("zarr", write_zarr, open_zarr),
    "lance": ("lance", write_lance, open_lance),
}

if __name__ == "__main__":
    main()
