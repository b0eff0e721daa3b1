"""Reading features for training, 200,000 x 1280 float16: packs and the store against plain arrays and other formats."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from safetensors import safe_open
from safetensors.numpy import save_file

from pipeline.fingerprint import digest
from pipeline.types import FeatureBlock, Image, Recipe, Space, Tap
from storage.features.packs import open_pack, write_pack
from storage.features.store import SHARD_ROWS
from storage.features.writer import FeatureWriter
from storage.workspace import Workspace
from tests.benchmarks.table import compare, interleaved, row

NUM_ROWS, DIM = 200_000, 1280
READ_ROWS = 4096  # at a time, in sequence
BATCH_ROWS, NUM_BATCHES = 256, 100
SPACE = Space("benchmark", "00" * 32, Recipe(size=224), (Tap("top", "top", "gap", dim=DIM, depth=0),))
CLASSES = [f"class_{label:03}" for label in range(200)]


def measure(scratch: Path) -> list[dict[str, Any]]:
    folder = scratch / "reading"
    images = [
        Image(digest(str(number).encode()), f"{CLASSES[number % 200]}/image_{number:06}.jpg", (number % 200,), "train")
        for number in range(NUM_ROWS)
    ]
    store = fill_store(folder / "store", images)
    write_pack(store, images, CLASSES, folder / "pack.h5")
    pack = open_pack(folder / "pack.h5")
    pack.check()
    memory = np.array(pack.features["top"])
    np.save(folder / "rows.npy", memory)
    mapped = np.load(folder / "rows.npy", mmap_mode="r")
    digests = [image.digest for image in images]
    others = write_others(folder, memory)

    sequential = {
        "memmap": lambda: in_sequence(mapped.__getitem__),
        "pack": lambda: in_sequence(pack.features["top"].__getitem__),
        "store": lambda: in_sequence(lambda part: store.read(digests[part], "top")),
        **{name: lambda read=read: in_sequence(read) for name, read in others.items()},
    }
    rng = np.random.default_rng(0)
    batches = [rng.choice(NUM_ROWS, BATCH_ROWS, replace=False) for _ in range(NUM_BATCHES)]
    shuffled = {
        "memory": lambda: [memory[batch] for batch in batches],
        "memmap": lambda: [mapped[batch] for batch in batches],
        "pack": lambda: [pack.features["top"][batch] for batch in batches],
    }
    seconds = interleaved(sequential, rounds=5)
    rows = [
        compare("in sequence: np.memmap / pack", "memmap", "pack", seconds, ">= 0.75"),
        compare("in sequence: np.memmap / store, every row verified, as float32", "memmap", "store", seconds, ""),
        *(compare(f"in sequence: np.memmap / {name}", "memmap", name, seconds, "") for name in others),
    ]
    seconds = interleaved(shuffled, rounds=5)
    rows += [
        compare("shuffled batches of 256 rows: pack / memory", "pack", "memory", seconds, "<= 2"),
        compare("shuffled batches of 256 rows: np.memmap / memory", "memmap", "memory", seconds, ""),
        *sizes(folder, store, memory.nbytes),
    ]
    shutil.rmtree(folder)
    return rows


def fill_store(root: Path, images: list[Image]) -> FeatureWriter:
    """Write features as dense as an average over ReLU6 maps: about half of them are zero."""
    store = FeatureWriter(Workspace.open(root), SPACE)
    rng = np.random.default_rng(0)
    with store:
        for start in range(0, NUM_ROWS, SHARD_ROWS):
            digests = tuple(image.digest for image in images[start : start + SHARD_ROWS])
            rows = np.maximum(rng.standard_normal((len(digests), DIM), np.float32), 0)
            store.append(FeatureBlock(digests, {"top": rows}))
    return store


def write_others(folder: Path, rows: np.ndarray) -> dict[str, Callable[[slice], object]]:
    """Write the rows in other formats; returns how to read some rows of each."""
    chunked = zarr.create_array(
        folder / "rows.zarr", shape=rows.shape, dtype=rows.dtype, chunks=(256, DIM), compressors=None, zarr_format=3
    )
    chunked[:] = rows
    save_file({"rows": rows}, folder / "rows.safetensors")
    tensors = safe_open(folder / "rows.safetensors", framework="numpy").get_slice("rows")
    flat = pa.array(rows.reshape(-1))
    table = pa.table({"rows": pa.FixedSizeListArray.from_arrays(flat, DIM)})
    pq.write_table(table, folder / "rows.parquet", row_group_size=READ_ROWS, compression="none", use_dictionary=False)
    groups = pq.ParquetFile(folder / "rows.parquet")

    def read_group(part: slice) -> object:
        found = groups.read_row_group(part.start // READ_ROWS)["rows"].combine_chunks().flatten()
        return found.to_numpy(zero_copy_only=False).reshape(-1, DIM)

    return {
        "zarr v3": chunked.__getitem__,
        "safetensors": tensors.__getitem__,
        "parquet": read_group,
    }


def in_sequence(read: Callable[[slice], Any]) -> None:
    """Copy all rows, some at a time, to where a training loop would use them."""
    into = np.empty((READ_ROWS, DIM), np.float16)
    for start in range(0, NUM_ROWS, READ_ROWS):
        found = read(slice(start, min(start + READ_ROWS, NUM_ROWS)))
        if found.dtype == into.dtype:
            into[: len(found)] = found


def sizes(folder: Path, store: FeatureWriter, raw: int) -> list[dict[str, Any]]:
    bars = {"pack.h5": "<= 1.03", "rows.npy": "", "rows.zarr": "", "rows.safetensors": "", "rows.parquet": ""}
    return [
        row("size of the store / raw", store.num_bytes / raw, "<= 1.03"),
        *(row(f"size of {name} / raw", size(folder / name) / raw, bar) for name, bar in bars.items()),
    ]


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory(prefix="headstart-bench-") as folder:
        measure(Path(folder))
