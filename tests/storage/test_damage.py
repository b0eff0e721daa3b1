"""What is damaged, gone, foreign or busy is noticed, costs its own rows, and never more than that."""

from __future__ import annotations

import os
import subprocess

import h5py
import numpy as np
import pytest

from pipeline.errors import ConflictError, DamagedError
from storage.disk.hashes import hash_file
from storage.disk.staging import GRACE_SECONDS
from storage.features.writer import FeatureWriter
from storage.workspace import Workspace
from tests.soak import flips, writers
from tests.soak.rows import SPACE

TWO_SHARDS = (range(4), range(4, 10))


@pytest.fixture
def filled(workspace, space, block_of):
    """A workspace with a shard of four rows and one of six."""
    store = FeatureWriter(workspace, space)
    for numbers in TWO_SHARDS:
        store.append(block_of(numbers))
        store.commit()
    return workspace


@pytest.fixture
def smaller_shard(filled, space):
    return min((path for _, path in filled.shards(space.id)), key=lambda path: path.stat().st_size)


@pytest.fixture
def assert_completed(filled, space, block_of, digests_of):
    """What is missing is computed again, and then everything is right."""

    def check(missing):
        store = FeatureWriter(filled, space)
        assert store.missing(digests_of(range(10))) == digests_of(missing)
        with store:
            store.append(block_of(missing))
        for tap in space.taps:
            found = store.read(digests_of(range(10)), tap.name)
            np.testing.assert_array_equal(found, block_of(range(10)).taps[tap.name])

    return check


# ── flipped bits ─────────────────────────────────────────────────────────────────────────────────


def test_a_flipped_bit_is_found_and_costs_its_own_shard(tmp_path):
    summary = flips.run(tmp_path, num_flips=20)
    assert summary["ok"], summary["failures"]
    assert {"shard: found by verify", "catalog: found by verify"} <= summary["counts"].keys()


def test_a_store_without_checksums_would_not_pass(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.features.shards._checksums", lambda keys, data: np.zeros(len(keys), np.uint64))
    pristine = flips.write_store(tmp_path / "pristine")
    [(_, path), *_] = Workspace.open(pristine).shards(SPACE.id)
    with h5py.File(path) as file:
        place = file["features/top"].id.get_offset()
    flip = {"kind": "shard", "path": str(path.relative_to(pristine)), "byte": place, "bit": 3}
    assert flips.examine(pristine, tmp_path, flip)["outcomes"] == ["read wrong"]


# ── many at once ─────────────────────────────────────────────────────────────────────────────────


def test_writers_and_readers_do_not_disturb_each_other(tmp_path):
    summary = writers.run(tmp_path, seconds=3.0)
    assert summary["ok"], summary["problems"]
    assert summary["counts"]["rows read"] > 0


# ── files that are gone, foreign or left behind ──────────────────────────────────────────────────


@pytest.mark.parametrize("opened", [False, True])
def test_a_shard_removed_under_a_reader_costs_its_rows(
    filled, smaller_shard, space, digests_of, assert_completed, opened
):
    reader = FeatureWriter(filled, space)
    assert reader.num_stored == 10
    if opened:
        reader.read(digests_of(range(10)), "top")
    smaller_shard.unlink()
    with pytest.raises(DamagedError, match="4 images will be recomputed"):
        reader.read(digests_of(range(10)), "top")
    assert reader.missing(digests_of(range(10))) == digests_of(range(4))
    assert_completed(range(4))


def test_a_shard_of_another_version_is_neither_used_nor_removed(filled, smaller_shard, assert_completed, caplog):
    smaller_shard.chmod(0o644)
    with h5py.File(smaller_shard, "r+") as file:
        file.attrs["version"] = 2
    theirs = smaller_shard.with_name(f"{hash_file(smaller_shard)}.h5")
    smaller_shard.rename(theirs)
    assert_completed(range(4))
    assert theirs.exists()
    assert "reads version 1" in caplog.text


def test_a_store_opened_after_a_process_died_removes_what_it_left(filled, assert_completed):
    leftover = filled.staging.folder / ".dead.part"
    leftover.write_bytes(b"half a shard")
    long_ago = leftover.stat().st_mtime - GRACE_SECONDS - 1
    os.utime(leftover, (long_ago, long_ago))
    assert_completed([])
    assert list(filled.staging.folder.iterdir()) == []


# ── a disk that only reads ───────────────────────────────────────────────────────────────────────


@pytest.fixture
def read_only(filled, tmp_path):
    """The same workspace on a file system that cannot be written, where we may mount one."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("no file system may be mounted here")
    for options in (["--bind", str(filled.root), str(folder)], ["-o", "remount,bind,ro", str(folder)]):
        if subprocess.run(["mount", *options], check=False, capture_output=True).returncode != 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
            pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_read_only_disk_can_be_read_and_refuses_the_rest_in_one_sentence(read_only, space, block_of, digests_of):
    store = FeatureWriter(Workspace.open(read_only, create=False), space)
    assert store.missing(digests_of(range(11))) == digests_of([10])
    np.testing.assert_array_equal(store.read(digests_of(range(10)), "top"), block_of(range(10)).taps["top"])
    store.append(block_of([10]))
    with pytest.raises(ConflictError, match=r"Cannot write .* Read-only file system\."):
        store.commit()
    with pytest.raises(ConflictError, match=r"Choose a folder that can be written"):
        Workspace.open(read_only)


def test_a_read_only_copy_without_its_catalog_is_one_sentence(filled, read_only, space, digests_of):
    filled.catalog.unlink()
    store = FeatureWriter(Workspace.open(read_only, create=False), space)
    with pytest.raises(ConflictError, match=r"Cannot use .*catalog\.db"):
        store.missing(digests_of(range(10)))
