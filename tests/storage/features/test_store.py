from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.progress import Quiet
from pipeline.errors import ConflictError, DamagedError, NotFoundError, NumericsError, UnknownNameError
from pipeline.types import FeatureBlock
from storage.features.spaces import list_spaces
from storage.features.store import SHARD_ROWS, FeatureStore, StoredTaps, open_features
from storage.features.writer import COMMIT_SECONDS, FeatureWriter
from storage.maintenance.verification import Verification
from storage.workspace import Workspace
from tests.factories import rewrite_document

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def store(workspace, space):
    return FeatureWriter(workspace, space)


@pytest.fixture
def another(workspace, space):
    """The same store as another process would open it."""
    return lambda: FeatureWriter(workspace, space)


def num_shards(workspace, space):
    return len(list(workspace.shards(space.id)))


# ── what is there ────────────────────────────────────────────────────────────────────────────────


def test_everything_is_missing_from_an_empty_store_once_and_in_order(store, digests_of):
    assert store.missing(digests_of([3, 1, 3, 2, 1])) == digests_of([3, 1, 2])
    assert store.num_stored == 0
    assert store.num_bytes == 0


def test_what_was_committed_is_not_missing(store, another, block_of, digests_of):
    store.append(block_of([1, 2]))
    store.commit()
    assert store.missing(digests_of([3, 2, 1])) == digests_of([3])
    assert another().missing(digests_of([3, 2, 1])) == digests_of([3])
    assert another().num_stored == 2
    assert another().num_bytes > 0


def test_what_is_not_committed_is_not_there(store, another, block_of, digests_of):
    store.append(block_of([1]))
    assert store.missing(digests_of([1])) == digests_of([1])
    assert another().missing(digests_of([1])) == digests_of([1])


def test_a_store_sees_what_others_commit_and_remove(store, another, workspace, space, block_of, digests_of):
    assert store.missing(digests_of(range(4))) == digests_of(range(4))
    with another() as other:
        other.append(block_of([0, 1]))
        other.commit()
        other.append(block_of([2]))
    assert store.missing(digests_of(range(4))) == digests_of([3])
    for _, path in workspace.shards(space.id):
        path.unlink()
    another().missing([])
    assert store.missing(digests_of(range(4))) == digests_of(range(4))


def test_rejected_pictures_are_not_tried_again_under_the_same_recipe(store, workspace, space, block_of, digests_of):
    good, bad = digests_of(["good", "bad"])
    store.append(FeatureBlock((), block_of([]).taps, ((bad, "truncated"),)))
    store.commit()
    assert store.missing([good, bad]) == [good]
    assert store.rejects([good, bad]) == {bad: "truncated"}
    same_recipe = FeatureWriter(workspace, replace(space, weights_sha256="cd" * 32))
    assert same_recipe.missing([good, bad]) == [good]
    other_recipe = FeatureWriter(workspace, replace(space, recipe=replace(space.recipe, decoder="other")))
    assert other_recipe.missing([good, bad]) == [good, bad]


def test_spaces_are_apart(workspace, space, store, block_of, digests_of):
    store.append(block_of([1]))
    store.commit()
    other = replace(space, weights_sha256="cd" * 32)
    assert FeatureStore(workspace, other).missing(digests_of([1])) == digests_of([1])
    assert list_spaces(workspace) == [space]


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def test_rows_come_in_the_order_asked_for(store, block_of, digests_of, space):
    for numbers in ([5, 6, 7], [1], [9, 8]):
        store.append(block_of(numbers))
        store.commit()
    wanted = [8, 5, 1, 7, 9, 5]
    for tap in space.taps:
        found = store.read(digests_of(wanted), tap.name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, block_of(wanted).taps[tap.name])
    assert store.read([], "top").shape == (0, 4)


def test_of_two_writers_of_one_image_the_first_wins(store, another, block_of, digests_of):
    store.append(block_of([1, 2]))
    store.commit()
    later = block_of([2, 3])
    later.taps["top"][:] += 1
    with another() as other:
        other.append(later)
    assert store.num_stored == 3
    np.testing.assert_array_equal(store.read(digests_of([2]), "top"), block_of([2]).taps["top"])


def test_an_unknown_tap_or_image_is_refused(store, block_of, digests_of):
    store.append(block_of([1]))
    store.commit()
    with pytest.raises(UnknownNameError, match="Did you mean 'top'"):
        store.read(digests_of([1]), "topp")
    with pytest.raises(NotFoundError, match=r"1 of 2 images .*headstart extract"):
        store.read(digests_of([1, 2]), "top")


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
        lambda data: b"",
    ],
)
def test_only_damaged_shards_are_computed_again(store, another, workspace, space, block_of, digests_of, damage, cached):
    for numbers in (range(4), range(4, 10)):
        store.append(block_of(numbers))
        store.commit()
    reader = another()
    if cached:
        reader.read(digests_of(range(10)), "top")
    path = max((path for _, path in workspace.shards(space.id)), key=lambda path: path.stat().st_size)
    path.chmod(0o644)
    path.write_bytes(damage(path.read_bytes()))

    try:
        for tap in ("top", "stage5_grid"):
            reader.read(digests_of(range(10)), tap)
    except DamagedError as error:
        assert "6 images will be recomputed" in str(error)  # noqa: PT017  not every byte of a file is a row
    else:
        del reader
        Verification(str(workspace.root), Quiet()).run()
        reader = another()
    assert [kept.name[9:] for kept in workspace.quarantine.iterdir()] == [path.name]
    assert reader.missing(digests_of(range(10))) == digests_of(range(4, 10))
    store.append(block_of(range(4, 10)))
    store.commit()
    np.testing.assert_array_equal(reader.read(digests_of(range(10)), "top"), block_of(range(10)).taps["top"])


# ── committing ───────────────────────────────────────────────────────────────────────────────────


def test_a_commit_comes_with_every_full_shard(store, workspace, space, block_of):
    store.append(block_of(range(SHARD_ROWS - 1)))
    assert num_shards(workspace, space) == 0
    store.append(block_of([SHARD_ROWS]))
    assert num_shards(workspace, space) == 1
    assert store.num_stored == SHARD_ROWS


def test_a_large_block_becomes_several_shards(store, workspace, space, block_of, digests_of):
    numbers = range(2 * SHARD_ROWS + 10)
    store.append(block_of(numbers))
    store.commit()
    assert num_shards(workspace, space) == 3
    np.testing.assert_array_equal(store.read(digests_of(numbers), "top"), block_of(numbers).taps["top"])


def test_a_commit_comes_after_half_a_minute_of_work(workspace, space, block_of):
    now = [0.0]
    store = FeatureWriter(workspace, space, clock=lambda: now[0])
    store.append(block_of([1]))
    now[0] += COMMIT_SECONDS - 1
    store.append(block_of([2]))
    assert store.num_stored == 0
    now[0] += 1
    store.append(block_of([3]))
    assert store.num_stored == 3
    now[0] += 1
    store.append(block_of([4]))
    assert store.num_stored == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_rows_computed_before_an_interruption_are_kept(store, another, block_of, digests_of, error):
    def interrupted():
        with store:
            store.append(block_of([1, 2]))
            raise error

    with pytest.raises(error):
        interrupted()
    assert another().missing(digests_of([1, 2])) == []


def test_a_refused_block_does_not_cost_the_others(store, another, block_of, digests_of):
    bad = block_of([2])
    bad.taps["top"][:] = np.inf

    def append_both():
        with store:
            store.append(block_of([1]))
            store.append(bad)

    with pytest.raises(NumericsError):
        append_both()
    assert another().missing(digests_of([1, 2])) == digests_of([2])


def test_appended_rows_may_be_overwritten_by_the_caller(store, block_of, digests_of):
    block = block_of([1])
    store.append(block)
    block.taps["top"][:] = 0
    store.commit()
    np.testing.assert_array_equal(store.read(digests_of([1]), "top"), block_of([1]).taps["top"])


def test_committing_nothing_writes_nothing(store, block_of, workspace, space):
    store.append(block_of([]))
    store.commit()
    store.commit()
    assert not workspace.space(space.id).exists()


def test_shards_are_read_only(store, workspace, space, block_of):
    store.append(block_of([1]))
    store.commit()
    ((_, path),) = workspace.shards(space.id)
    assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_a_full_disk_is_one_sentence_and_costs_nothing_committed(store, another, block_of, digests_of):
    store.append(block_of([1]))
    store.commit()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store.append(block_of(range(2, 600)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))  # the nearest to a full disk without root
    try:
        with pytest.raises(ConflictError, match="Free some space"):
            store.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert another().num_stored == 1
    store.commit()
    assert another().missing(digests_of(range(1, 600))) == []


# ── the space and its canary ─────────────────────────────────────────────────────────────────────


def test_a_descriptor_that_disagrees_is_an_error(workspace, space, store, block_of):
    store.append(block_of([1]))
    store.commit()
    path = workspace.space_file(space.id)
    descriptor = space.descriptor()
    descriptor["recipe"]["resize"] = "nearest"
    rewrite_document(path, descriptor=descriptor)
    with pytest.raises(DamagedError, match="does not describe the space"):
        FeatureWriter(workspace, space)


def test_a_canary_is_written_once(store, another, block_of):
    assert store.read_canary() is None
    store.write_canary(block_of([1, 2]))
    another().write_canary(block_of([3]))
    found = another().read_canary()
    assert found.digests == block_of([1, 2]).digests
    np.testing.assert_array_equal(found.taps["top"], block_of([1, 2]).taps["top"])


def test_a_canary_is_no_shard(store, another, block_of, workspace):
    store.write_canary(block_of([1]))
    workspace.catalog.unlink(missing_ok=True)
    assert another().num_stored == 0


# ── start-up ─────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_finds_everything_stored_does_not_load_hdf5(store, workspace, block_of):
    store.append(block_of([1]))
    store.commit()
    code = f"""
import hashlib, sys
from pipeline.types import Recipe, Space, Tap
from storage.models import engines
from storage.datasets import manifests
from storage.models import versions as models
from storage import measurements as records
from storage.datasets.digests import DigestMemory
from storage.features.store import open_features
from storage.features.spaces import list_spaces
from storage.workspace import Workspace
workspace = Workspace.open({str(workspace.root)!r})
DigestMemory(workspace).recall("/", [])
[space] = list_spaces(workspace)
with open_features(workspace, space) as store:
    assert store.missing([hashlib.sha256(b"1").digest()]) == []
print(*sorted({{"h5py", "xxhash", "tensorflow", "PIL"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


def test_a_workspace_can_be_read_without_being_made(workspace, space, store, block_of, digests_of):
    store.append(block_of([1]))
    store.commit()
    with open_features(Workspace.open(workspace.root, create=False), space) as reader:
        np.testing.assert_array_equal(reader.read(digests_of([1]), "top"), block_of([1]).taps["top"])


# ── one tap at a time ────────────────────────────────────────────────────────────────────────────


def test_stored_taps_are_read_when_asked_for(workspace, store, space, block_of, digests_of, monkeypatch):
    store.append(block_of([1, 2, 3]))
    store.commit()
    read = []
    monkeypatch.setattr(FeatureStore, "read", lambda self, digests, tap: read.append(tap))
    first, second = (tap.name for tap in space.taps[:2])
    taps = StoredTaps(workspace, [space], digests_of([3, 1]), (first, second))
    assert (list(taps), len(taps), read) == ([first, second], 2, [])
    taps[second]
    assert read == [second]


def test_stored_taps_are_the_rows_of_their_images_space_after_space(workspace, store, space, block_of, digests_of):
    store.append(block_of([1, 2, 3]))
    store.commit()
    name = space.taps[0].name
    taps = StoredTaps(workspace, [space, space], digests_of([3, 1]), (name,))
    once = store.read(digests_of([3, 1]), name)
    np.testing.assert_array_equal(taps[name], np.concatenate([once, once]))


def test_a_tap_that_was_not_asked_for_at_first_is_not_there(workspace, space, digests_of):
    with pytest.raises(KeyError):
        StoredTaps(workspace, [space], digests_of([1]), ("top",))["stage3_gap"]
