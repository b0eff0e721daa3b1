"""Damage of every kind is found, named, and set right where it can be."""

from __future__ import annotations

import random
import shutil
import sqlite3

import numpy as np
import pytest

from pipeline.errors import DamagedError, NotFoundError
from pipeline.types import FileEntry, Image, Manifest
from storage.datasets.digests import DigestMemory
from storage.datasets.manifests import write_manifest
from storage.datasets.registrations import write_registration
from storage.disk.locks import alone
from storage.features.store import FeatureStore
from storage.features.writer import FeatureWriter
from storage.maintenance.verification import Verification
from storage.measurements import write_measurement
from storage.models.engines import new_engine
from storage.models.serving import promote
from storage.workspace import Workspace
from tests import factories
from tests.factories import rewrite_document


class Listener:
    """Progress that can do something between two shards."""

    def __init__(self, between=lambda: None):
        self.total, self.num_done, self._between = 0, 0, between

    def start(self, stage, total):
        self.total = total

    def advance(self, num_done):
        self.num_done += num_done
        self._between()

    def finish(self):
        pass


def verify(root, progress=None):
    verification = Verification(str(root), progress or Listener())
    verification.run()
    return verification


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.chmod(0o644)
    path.write_bytes(data)


def execute(database, statement):
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA writable_schema = on")
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory, space, block_of, digests_of):
    """A workspace with one of everything: 4 shards of 6 rows, rejects, a canary, a dataset, a model, an engine."""
    workspace = Workspace.open(tmp_path_factory.mktemp("pristine") / "workspace")
    with FeatureWriter(workspace, space) as store:
        store.write_canary(block_of([100, 101]))
        for start in range(0, 24, 6):
            store.append(block_of(range(start, start + 6), [(bytes([start]) * 32, "truncated")]))
            store.commit()
    images = tuple(Image(digest, f"a/{n}.png", (n % 2,), "train") for n, digest in enumerate(digests_of(range(24))))
    write_manifest(workspace, Manifest("pets", "/pets", ("a", "b"), images))
    factories.save_model(workspace)
    promote(workspace, "pets", 1, "It is the first.")
    write_registration(workspace, "pets", {"folder": "/pets"})
    with new_engine(workspace, "e" * 16) as folder:
        (folder / "taps.bin").write_bytes(b"compiled")
    write_measurement(workspace, "similarity", "s" * 16, {"distance": 0.1})
    seen = FileEntry("a/0.png", 10, 1, None, ("a",))
    DigestMemory(workspace).remember("/pets", {"a/0.png": (seen, digests_of([0])[0])}, 10**10)
    return workspace.root


@pytest.fixture
def workspace(pristine, tmp_path):
    return Workspace.open(shutil.copytree(pristine, tmp_path / "workspace"))


@pytest.fixture
def shard_paths(space):
    return lambda workspace: [path for _, path in sorted(workspace.shards(space.id))]


@pytest.fixture
def assert_whole(space, block_of, digests_of):
    """Everything can be computed again, nothing wrong is read, and nothing more is found."""

    def check(workspace, num_missing):
        with FeatureWriter(workspace, space) as store:
            missing = [n for n in range(24) if store.missing(digests_of([n]))]
            assert len(missing) == num_missing
            store.append(block_of(missing))
        for tap in space.taps:
            found = store.read(digests_of(range(24)), tap.name)
            np.testing.assert_array_equal(found, block_of(range(24)).taps[tap.name])
        assert verify(workspace.root).findings == []

    return check


def test_a_whole_workspace_is_verified_silently_and_counted(workspace):
    listener = Listener()
    verification = verify(workspace.root, listener)
    assert verification.findings == []
    assert verification.checked == {
        "canaries": 1,
        "shards": 4,
        "rows": 24,
        "manifests": 1,
        "models": 1,
        "engines": 1,
        "records": 1,
    }
    assert listener.num_done == listener.total == 4
    assert not workspace.quarantine.exists()


def test_where_there_is_no_workspace_nothing_is_made(tmp_path):
    with pytest.raises(NotFoundError):
        verify(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


# ── what is set right ────────────────────────────────────────────────────────────────────────────


def test_a_damaged_shard_costs_its_own_rows(workspace, shard_paths, assert_whole):
    path = shard_paths(workspace)[2]
    flip(path, 8 * (path.stat().st_size - 1))
    (finding,) = verify(workspace.root).findings
    assert (finding.what, finding.path) == ("shard", str(path.relative_to(workspace.root)))
    assert "does not match its name" in finding.problem
    assert "It moved to quarantine/" in finding.done
    assert not path.exists()
    assert_whole(workspace, num_missing=6)


def test_a_shard_that_is_gone_is_told_and_its_rows_are_missing(workspace, shard_paths, assert_whole):
    shard_paths(workspace)[1].unlink()
    (finding,) = verify(workspace.root).findings
    assert finding.what == "catalog"
    assert "is not on disk" in finding.problem
    assert_whole(workspace, num_missing=6)


def test_a_shard_whose_rows_fail_their_checksums_is_found_though_its_name_is_right(
    workspace, space, block_of, digests_of, assert_whole
):
    from storage.features.shards import encode_shard, to_stored

    store = FeatureWriter(workspace, space)
    good = encode_shard(space, digests_of([30]), to_stored(space, block_of([30])))
    row = to_stored(space, block_of([30]))["top"].tobytes()
    assert good.count(row) == 1
    bad = good.replace(row, row[:-1] + b"\x01")
    import hashlib

    path = workspace.shard(space.id, hashlib.sha256(bad).hexdigest())
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bad)
    assert store.num_stored == 25  # adopted: its name is right
    del store
    (finding,) = verify(workspace.root).findings
    assert (finding.what, "fail their checksum" in finding.problem) == ("shard", True)
    assert_whole(workspace, num_missing=0)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE shards SET keys = (SELECT keys FROM shards WHERE sequence = 1) WHERE sequence = 2",
        "UPDATE shards SET num_bytes = num_bytes + 1 WHERE sequence = 2",
        "UPDATE shards SET num_rows = 'six' WHERE sequence = 3",
        "UPDATE shards SET name = CAST(x'ff00' AS TEXT) WHERE sequence = 1",
        "UPDATE shards SET space = 'nowhere' WHERE sequence = 1",
        "UPDATE rejects SET reason = 'Truncated'",
        "UPDATE rejects SET digest = zeroblob(31) WHERE digest = (SELECT max(digest) FROM rejects)",
        "PRAGMA user_version = 3",
        "PRAGMA user_version = 0",
        "UPDATE sqlite_schema SET sql = replace(sql, 'never', 'newer') WHERE name = 'shards'",
    ],
)
def test_a_catalog_that_says_anything_wrong_is_built_anew(workspace, assert_whole, statement):
    execute(workspace.catalog, statement)
    (finding,) = verify(workspace.root).findings
    assert (finding.what, finding.done) == ("catalog", "It was rebuilt from the shards.")
    assert_whole(workspace, num_missing=0)


def test_a_catalog_that_is_gone_is_built_anew(workspace, assert_whole):
    workspace.catalog.unlink()
    (finding,) = verify(workspace.root).findings
    assert (finding.what, finding.problem) == ("catalog", "It is gone.")
    assert_whole(workspace, num_missing=0)


def test_a_catalog_that_forbids_writing_is_built_anew(workspace, assert_whole):
    flip(workspace.catalog, 18 * 8 + 1)  # the file format's write version becomes 3
    (finding,) = verify(workspace.root).findings
    assert (finding.what, "forbids writing" in finding.problem) == ("catalog", True)
    assert_whole(workspace, num_missing=0)


def test_a_catalog_of_a_newer_version_is_left_as_it_is(workspace, shard_paths):
    execute(workspace.catalog, "ALTER TABLE shards ADD COLUMN later TEXT")
    execute(workspace.catalog, "PRAGMA user_version = 2")
    before = workspace.catalog.read_bytes()
    (finding,) = verify(workspace.root).findings
    assert (finding.what, finding.done) == ("catalog", "It was left as it is.")
    assert workspace.catalog.read_bytes() == before


def test_a_damaged_memory_of_digests_is_begun_anew(workspace):
    execute(workspace.digests, "UPDATE files SET digest = zeroblob(32)")
    entry = FileEntry("a/0.png", 10, 1, None, ("a",))
    assert DigestMemory(workspace).recall("/pets", [entry]) == {}
    (finding,) = verify(workspace.root).findings
    assert (finding.what, "1 rows fail their checksum" in finding.problem) == ("digests", True)
    assert verify(workspace.root).findings == []


@pytest.mark.parametrize("damage", [lambda path: flip(path, 8 * 100), lambda path: path.unlink()])
def test_a_descriptor_is_written_anew_from_a_shard(workspace, space, assert_whole, damage):
    path = workspace.space_file(space.id)
    before = path.read_bytes()
    damage(path)
    (finding,) = verify(workspace.root).findings
    assert finding.what == "space"
    assert "written again from a shard" in finding.done + finding.next
    assert path.read_bytes() == before
    assert_whole(workspace, num_missing=0)


def test_a_space_that_nothing_describes_goes_to_quarantine(workspace, space, shard_paths, assert_whole):
    for path in [workspace.space_file(space.id), *shard_paths(workspace)]:
        flip(path, 8 * 60)
    assert [finding.what for finding in verify(workspace.root).findings] == ["space", "catalog"]
    assert_whole(workspace, num_missing=24)


def test_a_damaged_canary_is_taken_away(workspace, space):
    path = workspace.canary(space.id)
    flip(path, 8 * (path.stat().st_size // 2))
    (finding,) = verify(workspace.root).findings
    assert (finding.what, "--recompute" in finding.next) == ("canary", True)
    assert not path.exists()
    assert verify(workspace.root).findings == []


@pytest.mark.parametrize(
    ("what", "file"),
    [("engine", "engines/*/taps.bin"), ("engine", "engines/*/engine.json"), ("record", "similarity/*.json")],
)
def test_what_is_made_again_when_it_is_needed_is_taken_away(workspace, what, file):
    (path,) = workspace.root.glob(file)
    flip(path, 8)
    (finding,) = verify(workspace.root).findings
    assert finding.what == what
    assert not path.exists()
    assert verify(workspace.root).findings == []


def test_a_workspace_whose_format_file_is_damaged_is_still_one(workspace, assert_whole):
    flip(workspace.format_file, 0)
    (finding,) = verify(workspace.root).findings
    assert (finding.what, finding.path) == ("workspace", "FORMAT.json")
    assert_whole(Workspace.open(workspace.root, create=False), num_missing=0)


def test_a_format_file_of_somebody_else_is_not_touched(tmp_path):
    (tmp_path / "FORMAT.json").write_text("{}")
    with pytest.raises(DamagedError):
        verify(tmp_path)
    assert (tmp_path / "FORMAT.json").read_text() == "{}"


# ── what is only reported ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("what", "file", "advice"),
    [
        ("manifest", "datasets/pets/*.jsonl", "headstart plan"),
        ("dataset", "datasets/pets/current.json", "headstart plan"),
        ("model", "models/pets/1/model.keras", "headstart onboard"),
        ("model", "models/pets/1/record.json", "headstart onboard"),
        ("serving", "models/pets/serving.json", "headstart promote pets@VERSION"),
        ("onboarded", "datasets/pets/onboarded.json", "headstart onboard DIR --name pets"),
    ],
)
def test_what_cannot_be_derived_stays_and_its_finding_says_what_to_do(workspace, what, file, advice):
    (path,) = workspace.root.glob(file)
    flip(path, 8)
    damaged = path.read_bytes()
    for _ in range(2):
        (finding,) = verify(workspace.root).findings
        assert (finding.what, finding.done) == (what, "It was left as it is.")
        assert advice in finding.next
        assert path.read_bytes() == damaged


def test_a_version_that_serves_and_is_gone_is_reported(workspace):
    shutil.rmtree(workspace.model("pets", 1))
    workspace.model("pets", 2).mkdir()
    finding = verify(workspace.root).findings[-1]
    assert (finding.what, finding.problem) == ("serving", "It names version 1, which is gone.")


def test_a_current_manifest_that_is_gone_is_reported(workspace):
    (path,) = workspace.root.glob("datasets/pets/*.jsonl")
    path.unlink()
    (finding,) = verify(workspace.root).findings
    assert (finding.what, path.stem in finding.problem) == ("dataset", True)


def test_a_space_of_another_version_is_left_as_it_is(workspace, space, assert_whole):
    from pipeline.fingerprint import fingerprint

    descriptor = {**space.descriptor(), "invented": 1}
    other = workspace.space(fingerprint(descriptor))
    shutil.copytree(workspace.space(space.id), other)
    rewrite_document(other / "space.json", id=other.name, descriptor=descriptor)
    execute(
        workspace.catalog,
        f"INSERT INTO shards (space, name, num_rows, num_bytes, keys) VALUES ('{other.name}', 'x', 1, 1, x'00')",
    )
    files = sorted(path for path in other.rglob("*"))
    (finding,) = verify(workspace.root).findings
    assert (finding.what, finding.done) == ("space", "It was left as it is.")
    assert sorted(path for path in other.rglob("*")) == files


# ── meanwhile ────────────────────────────────────────────────────────────────────────────────────


def test_what_others_commit_meanwhile_is_no_damage(workspace, space, block_of, digests_of):
    numbers = iter(range(100, 200))

    def commit():
        with FeatureWriter(workspace, space) as store:
            store.append(block_of([next(numbers)]))

    assert verify(workspace.root, Listener(commit)).findings == []
    assert FeatureStore(workspace, space).num_stored == 28


def test_nothing_is_removed_from_a_space_while_it_is_verified(workspace, space):
    free = []

    def try_to_enter():
        with alone(workspace.space(space.id)) as is_free:
            free.append(is_free)

    verify(workspace.root, Listener(try_to_enter))
    assert free == [False] * 4


def test_a_shard_that_a_killed_process_left_unregistered_is_adopted_and_no_damage(workspace, space, assert_whole):
    execute(workspace.catalog, "DELETE FROM shards WHERE sequence = 4")
    assert verify(workspace.root).findings == []
    assert_whole(workspace, num_missing=0)


# ── bits ─────────────────────────────────────────────────────────────────────────────────────────


def contents(database):
    connection = sqlite3.connect(database)
    sound = connection.execute("PRAGMA integrity_check").fetchall()
    found = [*connection.iterdump(), sound]
    connection.close()
    return found


def test_every_flipped_bit_is_found_or_has_no_effect(pristine, tmp_path, shard_paths, assert_whole):
    chance = random.Random(1)
    for number in range(16):
        workspace = Workspace.open(shutil.copytree(pristine, tmp_path / str(number)))
        path = workspace.catalog if number % 2 else chance.choice(shard_paths(workspace))
        bit = chance.randrange(8 * path.stat().st_size)
        flip(path, bit)
        if path == workspace.catalog:
            if not verify(workspace.root).findings:
                assert contents(path) == contents(pristine / "catalog.db"), bit
            assert_whole(workspace, num_missing=0)
        else:
            assert [finding.what for finding in verify(workspace.root).findings] == ["shard"], bit
            assert_whole(workspace, num_missing=6)
        shutil.rmtree(workspace.root)
