"""A store of 10 million rows: opening it, looking up, committing to it; and rebuilding a catalog that was lost."""

from __future__ import annotations

import hashlib
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.types import FeatureBlock, Recipe, Space, Tap
from storage.features.catalog import Catalog, ShardRow
from storage.features.spaces import write_space
from storage.features.store import SHARD_ROWS, FeatureStore
from storage.features.writer import FeatureWriter
from storage.workspace import Workspace
from tests.benchmarks.table import row

NUM_ROWS = 10_000_000
NUM_LOOKUPS = 100_000
NUM_COMMITS = 20
NUM_REBUILT = 100  # shards
SPACE = Space("benchmark", "00" * 32, Recipe(size=224), (Tap("top", "top", "gap", dim=1280, depth=0),))


def measure(scratch: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    empty = Workspace.open(scratch / "catalog-empty")
    few = commit_seconds(FeatureWriter(empty, SPACE), rng)
    workspace = Workspace.open(scratch / "catalog")
    known = register(workspace, rng)
    lookups = [*known, *(rng.bytes(32) for _ in known)]
    seconds: dict[str, list[float]] = {"open": [], "missing": []}
    for _ in range(3):
        started = time.perf_counter()
        store = FeatureWriter(workspace, SPACE)
        store.missing(lookups[:1])
        opened = time.perf_counter()
        assert len(store.missing(lookups)) == NUM_LOOKUPS // 2
        seconds["open"].append(opened - started)
        seconds["missing"].append(time.perf_counter() - opened)
    many = commit_seconds(store, rng)
    shutil.rmtree(workspace.root)
    rows = [
        row(f"seconds to open a store of {NUM_ROWS:,} rows", statistics.median(seconds["open"]), "< 1"),
        row(f"seconds of {NUM_LOOKUPS:,} look-ups in it", statistics.median(seconds["missing"]), "< 0.2"),
        row(f"seconds of a commit of {SHARD_ROWS:,} rows to it", many, "< 0.02"),
        row("that commit / one to an empty store", many / few, ""),
        rebuild(empty, rng),
    ]
    shutil.rmtree(empty.root)
    return rows


def register(workspace: Workspace, rng: np.random.Generator) -> list[bytes]:
    """Fill the catalog with shards that exist as empty files; returns some of the digests."""
    write_space(workspace, SPACE)
    catalog = Catalog(workspace)
    catalog.recover(SPACE)
    shards = []
    for number in range(-(-NUM_ROWS // SHARD_ROWS)):
        name = hashlib.sha256(str(number).encode()).hexdigest()
        path = workspace.shard(SPACE.id, name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        shards.append(ShardRow(name, SHARD_ROWS, SHARD_ROWS * 2600, rng.bytes(32 * SHARD_ROWS)))
    catalog.add(SPACE, shards)
    picks = rng.integers(0, NUM_ROWS, NUM_LOOKUPS // 2).tolist()
    return [shards[pick // SHARD_ROWS].keys[pick % SHARD_ROWS * 32 :][:32] for pick in picks]


def commit_seconds(store: FeatureWriter, rng: np.random.Generator) -> float:
    """Commit shards of new rows, see them arrive, and return the median seconds."""
    seconds = []
    for _ in range(NUM_COMMITS):
        digests = tuple(rng.bytes(32) for _ in range(SHARD_ROWS - 1))  # one more, and `append` commits itself
        store.append(FeatureBlock(digests, {"top": rng.random((len(digests), SPACE.taps[0].dim), np.float32)}))
        started = time.perf_counter()
        store.commit()
        assert store.missing(digests) == []
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def rebuild(workspace: Workspace, rng: np.random.Generator) -> dict[str, Any]:
    """Lose the catalog of a real store and open it again."""
    with FeatureWriter(workspace, SPACE) as store:
        for _ in range(NUM_REBUILT):
            digests = tuple(rng.bytes(32) for _ in range(SHARD_ROWS))
            store.append(FeatureBlock(digests, {"top": rng.random((SHARD_ROWS, SPACE.taps[0].dim), np.float32)}))
        num_rows, megabytes = store.num_stored, store.num_bytes / 1e6
    workspace.catalog.unlink()
    started = time.perf_counter()
    found = FeatureStore(workspace, SPACE).num_stored
    rate = megabytes / (time.perf_counter() - started)
    return row("MB/s of rebuilding a lost catalog", rate, ">= 200", rows_found=found / num_rows)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory(prefix="headstart-bench-") as folder:
        measure(Path(folder))
