"""What nothing needs goes, when asked; what anything needs stays, whatever happens."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConflictError
from pipeline.types import Image, Manifest
from storage.datasets.manifests import write_manifest
from storage.disk.atomic import Fs
from storage.features.catalog import Catalog
from storage.features.writer import FeatureWriter
from storage.maintenance.garbage import Limits, collect
from storage.maintenance.verification import Verification
from storage.models.engines import new_engine
from storage.models.serving import promote
from storage.models.versions import check_bundle, list_versions, one_at_a_time, read_ref
from storage.workspace import Workspace
from tests import factories
from tests.factories import age
from tests.storage.faulty_disk import Death, FaultyDisk

REPOSITORY = Path(__file__).parents[3]
DAY = 86_400


@pytest.fixture(scope="session")
def manifest_of(digests_of):
    def manifest(numbers, name="pets", root="/pets"):
        digests = digests_of(numbers)
        images = tuple(
            Image(digest, f"a/{n}.png", (n % 2,), "train") for n, digest in zip(numbers, digests, strict=True)
        )
        return Manifest(name, root, ("a", "b"), images)

    return manifest


@pytest.fixture(scope="module")
def pristine(tmp_path_factory, space, block_of, manifest_of):
    """Rows 0-11 in three shards, of which a dataset has 0-5, all of it written two days ago."""
    workspace = Workspace.open(tmp_path_factory.mktemp("pristine") / "workspace")
    with FeatureWriter(workspace, space) as store:
        store.write_canary(block_of([100]))
        for start in (0, 4, 8):
            store.append(block_of(range(start, start + 4)))
            store.commit()
    write_manifest(workspace, manifest_of(range(6)))
    age(workspace.root, 2 * DAY)
    return workspace.root


@pytest.fixture
def workspace(pristine, tmp_path):
    return Workspace.open(shutil.copytree(pristine, tmp_path / "workspace"))


@pytest.fixture
def stored(space, block_of, digests_of):
    """The numbers of the rows that are stored, having read them all."""

    def numbers(workspace, space=space):
        store = FeatureWriter(workspace, space)
        kept = [n for n in range(30) if not store.missing(digests_of([n]))]
        for tap in space.taps:
            np.testing.assert_array_equal(store.read(digests_of(kept), tap.name), block_of(kept).taps[tap.name])
        return kept

    return numbers


def save_model(workspace, manifest):
    return factories.save_model(workspace, factories.a_record(manifest), manifest.dataset)


def listing(workspace):
    found = {}
    for path in sorted(workspace.root.rglob("*")):
        status = path.stat()
        found[path] = (status.st_ino, status.st_size, status.st_mtime_ns, path.is_file() and path.read_bytes())
    return found


def set_age(path, days):
    os.utime(path, (time.time() - days * DAY,) * 2)


def verify(workspace):
    class Quiet:
        def start(self, stage, total):
            pass

        def advance(self, num_done):
            pass

        def finish(self):
            pass

    verification = Verification(str(workspace.root), Quiet())
    verification.run()
    return verification.findings


def kinds(collected):
    return [item.kind for item in collected.garbage]


# ── what goes and what stays ─────────────────────────────────────────────────────────────────────


def test_without_delete_not_a_byte_changes(workspace):
    before = listing(workspace)
    collected = collect(workspace, [], Limits(), delete=False)
    assert [(item.kind, item.num_rows) for item in collected.garbage] == [("shard", 2), ("shard", 4)]
    assert listing(workspace) == before


def test_rows_that_nothing_needs_go_and_the_others_stay_as_they_are(workspace, space, stored):
    before = {name for name, _ in workspace.shards(space.id)}
    size = sum(path.stat().st_size for _, path in workspace.shards(space.id))
    foreseen = collect(workspace, [], Limits(), delete=False)
    removed = collect(workspace, [], Limits(), delete=True)
    assert removed == foreseen
    registered = {row.name for row in Catalog(workspace).shards(space)}
    assert registered == {name for name, _ in workspace.shards(space.id)}
    assert stored(workspace) == list(range(6))
    after = {name for name, _ in workspace.shards(space.id)}
    assert len(after & before) == 1  # of rows 0-3 all are needed
    assert len(after - before) == 1  # rows 4 and 5, without 6 and 7
    assert sum(path.stat().st_size for _, path in workspace.shards(space.id)) < size
    assert verify(workspace) == []
    assert collect(workspace, [], Limits(), delete=True).garbage == ()


def test_a_dataset_keeps_its_rows_in_every_space(workspace, space, block_of, stored):
    other = replace(space, weights_sha256="cd" * 32)
    with FeatureWriter(workspace, other) as store:
        store.append(block_of(range(2, 10)))
    del store
    age(workspace.root, 2 * DAY)
    collect(workspace, [], Limits(), delete=True)
    assert stored(workspace) == list(range(6))
    assert stored(workspace, other) == list(range(2, 6))


def test_a_dataset_that_is_renamed_relabelled_or_moved_keeps_its_rows(workspace, manifest_of, stored):
    moved = manifest_of(range(4, 10), name="animals", root="/elsewhere")
    write_manifest(workspace, replace(moved, images=tuple(replace(i, labels=(1 - i.label,)) for i in moved.images)))
    collect(workspace, [], Limits(), delete=True)
    assert stored(workspace) == list(range(10))


def test_a_model_keeps_what_it_was_trained_on_though_its_dataset_has_changed(workspace, manifest_of, stored):
    save_model(workspace, manifest_of(range(6)))
    write_manifest(workspace, manifest_of(range(9, 11)))
    collect(workspace, [], Limits(grace_seconds=0), delete=True)
    assert stored(workspace) == [*range(6), 9, 10]
    assert len(list(workspace.datasets.glob("pets/*.jsonl"))) == 2


def test_a_manifest_that_is_not_current_goes_unless_a_model_was_trained_on_it(workspace, manifest_of):
    for numbers in (range(3), range(4), range(5)):
        write_manifest(workspace, manifest_of(numbers))
    save_model(workspace, manifest_of(range(4)))
    age(workspace.root, 2 * DAY)
    collect(workspace, [], Limits(), delete=True)
    left = {path.stem for path in workspace.datasets.glob("pets/*.jsonl")}
    assert left == {manifest_of(range(n)).fingerprint for n in (4, 5)}


def test_a_space_of_which_nothing_is_needed_goes_with_its_last_shard(workspace, space, manifest_of, block_of, stored):
    write_manifest(workspace, manifest_of(range(20, 22)))
    collect(workspace, [], Limits(), delete=True)
    assert not workspace.space(space.id).exists()
    assert stored(workspace) == []
    with FeatureWriter(workspace, space) as store:
        store.append(block_of([20]))
    assert stored(workspace) == [20]


def test_engines_go_that_nothing_can_use(workspace):
    for engine_id in ("used", "unused"):
        with new_engine(workspace, engine_id) as folder:
            (folder / "taps.bin").write_bytes(b"compiled")
    for path in workspace.engines.iterdir():
        set_age(path, 2)
    collected = collect(workspace, ["used"], Limits(), delete=True)
    assert [item.path.name for item in collected.garbage if item.kind == "engine"] == ["unused"]
    assert [path.name for path in workspace.engines.iterdir()] == ["used"]


def test_what_lies_in_quarantine_counts_from_the_day_it_was_set_aside(workspace):
    damaged = workspace.root / "damaged"
    damaged.write_bytes(b"damaged")
    set_age(damaged, 40)
    kept = workspace.set_aside(damaged)
    assert "quarantine" not in kinds(collect(workspace, [], Limits(), delete=True))
    assert kept.exists()
    assert "quarantine" in kinds(collect(workspace, [], Limits(grace_seconds=0), delete=True))
    assert not kept.exists()


def test_staging_of_a_dead_process_goes_and_that_of_a_living_one_stays(workspace):
    dead, alive = workspace.staging.folder / ".dead.part", workspace.staging.folder / ".alive.part"
    for path in (dead, alive):
        path.write_bytes(b"half")
        set_age(path, 2)
    with open(alive) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        collected = collect(workspace, [], Limits(), delete=True)
    assert [item.path for item in collected.garbage if item.kind == "staging"] == [dead]
    assert (dead.exists(), alive.exists()) == (False, True)


# ── limits ───────────────────────────────────────────────────────────────────────────────────────


def test_nothing_younger_than_the_grace_period_goes(workspace, space, stored):
    for _, path in workspace.shards(space.id):
        set_age(path, 0.9)
    assert collect(workspace, [], Limits(), delete=True).garbage == ()
    assert stored(workspace) == list(range(12))


def test_only_what_is_older_goes_where_an_age_is_given(workspace):
    old, young = (item.path for item in collect(workspace, [], Limits(), delete=False).garbage)
    set_age(old, 40)
    set_age(young, 20)
    for days, gone in ((50, []), (30, [old]), (10, [old, young])):
        collected = collect(workspace, [], Limits(older_than_seconds=days * DAY), delete=False)
        assert [item.path for item in collected.garbage] == gone


def test_only_the_oldest_go_where_a_size_is_given_and_never_what_is_needed(workspace, stored):
    garbage = collect(workspace, [], Limits(), delete=False).garbage
    for days, item in enumerate(garbage, start=3):
        set_age(item.path, days)
    total = sum(path.stat().st_size for path in workspace.root.rglob("*") if path.is_file())
    fits = collect(workspace, [], Limits(max_bytes=total), delete=False)
    assert fits.garbage == ()
    almost = collect(workspace, [], Limits(max_bytes=total - 1), delete=False)
    assert [item.path for item in almost.garbage] == [garbage[-1].path]
    collect(workspace, [], Limits(max_bytes=0), delete=True)
    assert stored(workspace) == list(range(6))


# ── in use ───────────────────────────────────────────────────────────────────────────────────────

HOLDER = """
import sys
from storage.features.writer import FeatureWriter
from storage.features.spaces import list_spaces
from storage.workspace import Workspace
workspace = Workspace.open(sys.argv[1])
[space] = list_spaces(workspace)
store = FeatureWriter(workspace, space)
print("ready", flush=True)
sys.stdin.read()
"""


def test_what_another_process_has_open_is_left_alone_until_that_ends(workspace, manifest_of, stored):
    write_manifest(workspace, manifest_of(range(5)))  # so that there is an old manifest, too
    age(workspace.root, 2 * DAY)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(workspace.root)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        before = listing(workspace)
        collected = collect(workspace, [], Limits(), delete=True)
        assert collected.garbage == ()
        assert "is in use" in collected.left_alone[0]
        assert listing(workspace) == before
    finally:
        process.kill()
        process.communicate()
    collected = collect(workspace, [], Limits(), delete=True)
    assert sorted(kinds(collected)) == ["manifest", "shard", "shard"]
    assert collected.left_alone == ()
    assert stored(workspace) == list(range(5))


class Rescanned(Fs):
    """A disk on which somebody makes an old manifest the current one again while a shard goes."""

    def unlink(self, path):
        super().unlink(path)
        if path.suffix == ".h5":
            self.rescan()


def test_a_manifest_that_is_written_anew_meanwhile_stays(workspace, manifest_of):
    old = workspace.manifest("pets", manifest_of(range(6)).fingerprint)
    write_manifest(workspace, manifest_of(range(5)))
    disk = Rescanned()
    disk.rescan = lambda: write_manifest(workspace, manifest_of(range(6)))
    for path in workspace.root.glob("spaces/*/??/*.h5"):
        set_age(path, 3)  # so that they go first
    collected = collect(Workspace.open(workspace.root, fs=disk), [], Limits(), delete=True)
    assert old in {item.path for item in collected.garbage}
    assert old.exists()


# ── doubt ────────────────────────────────────────────────────────────────────────────────────────


def spoil(path):
    path.chmod(0o644)
    path.write_bytes(b"x" * 20 + path.read_bytes()[20:])
    set_age(path, 2)


def lose_a_manifest(workspace, manifest):
    save_model(workspace, manifest)
    workspace.manifest("pets", manifest.fingerprint).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda w, m: spoil(next(w.datasets.glob("pets/*.jsonl"))), "is damaged"),
        (lambda w, m: spoil(w.current("pets")), "is damaged"),
        (lambda w, m: lose_a_manifest(w, m(range(8))), "has no manifest"),
        (lambda w, m: spoil(Path(save_model(w, m(range(6))).path) / "record.json"), "is damaged"),
        (lambda w, m: spoil(w.catalog), "headstart verify"),
        (lambda w, m: w.catalog.unlink(), "headstart verify"),
        (lambda w, m: spoil(next(w.spaces.glob("*/space.json"))), "is damaged"),
        (lambda w, m: w.current("pets").unlink(), "No dataset and no model is known"),
    ],
)
def test_while_anything_is_in_doubt_nothing_is_removed(workspace, manifest_of, damage, said):
    damage(workspace, manifest_of)
    before = listing(workspace)
    for delete in (False, True):
        with pytest.raises(ConflictError, match=said):
            collect(workspace, [], Limits(), delete=delete)
    assert listing(workspace) == before


def test_a_damaged_shard_is_not_rewritten(workspace, space):
    (shard,) = (item for item in collect(workspace, [], Limits(), delete=False).garbage if item.num_rows == 2)
    shard.path.chmod(0o644)
    shard.path.write_bytes(shard.path.read_bytes() + b"x")
    set_age(shard.path, 2)
    damaged = shard.path.read_bytes()
    with pytest.raises(ConflictError, match="headstart verify"):
        collect(workspace, [], Limits(), delete=True)
    assert shard.path.read_bytes() == damaged


# ── crashes ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", [Death(), OSError(errno.EIO, "Input/output error")])
def test_a_removal_that_ends_at_any_call_has_lost_nothing_and_can_be_run_again(pristine, tmp_path, stored, error):
    for k in count(1):
        root = shutil.copytree(pristine, tmp_path / str(k))
        disk = FaultyDisk(0, error)
        workspace = Workspace.open(root, fs=disk)
        disk.fail_at = disk.num_calls + k
        try:
            collect(workspace, [], Limits(), delete=True)
        except (Death, ConflictError):
            disk.end_process()
        else:
            break  # there is no k-th call
        assert set(range(6)) <= set(stored(Workspace.open(root)))
        assert not (root / "quarantine").exists()
        collect(Workspace.open(root), [], Limits(), delete=True)
        assert stored(Workspace.open(root)) == list(range(6))
    assert k > 7


# ── versions of models ───────────────────────────────────────────────────────────────────────────


def test_a_superseded_version_goes_and_what_only_it_needed_goes_the_next_time(workspace, manifest_of, stored):
    for numbers in (range(6, 9), range(6)):
        write_manifest(workspace, manifest_of(numbers))
        save_model(workspace, manifest_of(numbers))
    old = workspace.model("pets", 1)
    set_age(old, 2)
    first = collect(workspace, [], Limits(), delete=True, superseded=[old])
    assert "model" in kinds(first)
    assert (old.exists(), stored(workspace)) == (False, list(range(9)))
    collect(workspace, [], Limits(grace_seconds=0), delete=True)
    assert stored(workspace) == list(range(6))
    assert list_versions(workspace) == [workspace.model("pets", 2)]


def test_a_version_that_serves_or_is_just_being_made_stays(workspace, manifest_of):
    for _ in range(2):
        save_model(workspace, manifest_of(range(6)))
    old = workspace.model("pets", 1)
    set_age(old, 2)
    with one_at_a_time(workspace, "pets"):
        collect(workspace, [], Limits(), delete=True, superseded=[old])
    assert old.exists()
    promote(workspace, "pets", 1, "chosen meanwhile")
    collect(workspace, [], Limits(), delete=True, superseded=[old])
    assert old.exists()


def test_a_young_version_stays(workspace, manifest_of):
    for _ in range(2):
        save_model(workspace, manifest_of(range(6)))
    assert "model" not in kinds(collect(workspace, [], Limits(), delete=True, superseded=[workspace.model("pets", 1)]))


@pytest.mark.parametrize("error", [Death(), OSError(errno.EIO, "Input/output error")])
def test_a_version_is_never_found_in_part(pristine, tmp_path, manifest_of, error):
    for k in count(1):
        root = shutil.copytree(pristine, tmp_path / str(k))
        for _ in range(2):
            save_model(Workspace.open(root), manifest_of(range(6)))
        set_age(root / "models" / "pets" / "1", 2)
        disk = FaultyDisk(0, error)
        workspace = Workspace.open(root, fs=disk)
        disk.fail_at = disk.num_calls + k
        try:
            collect(workspace, [], Limits(), delete=True, superseded=[workspace.model("pets", 1)])
        except (Death, ConflictError):
            disk.end_process()
        else:
            break  # there is no k-th call
        for folder in list_versions(Workspace.open(root)):
            check_bundle(read_ref(folder))
    assert k > 9
