from __future__ import annotations

import sqlite3

import pytest

from pipeline.errors import ConflictError
from storage.features.catalog import Catalog
from storage.features.store import FeatureStore
from storage.features.writer import FeatureWriter


@pytest.fixture
def filled(workspace, space, block_of):
    """A workspace with three shards of four rows, and two rejects."""
    with FeatureWriter(workspace, space) as store:
        for start in (0, 4, 8):
            store.append(block_of(range(start, start + 4), rejected=[(bytes([start]) * 32, "no picture")]))
            store.commit()
    return workspace


@pytest.fixture
def assert_all_there(space, block_of, digests_of):
    def check(workspace, and_also=()):
        store = FeatureWriter(workspace, space)
        assert store.missing(digests_of([*range(13), *and_also])) == digests_of([12])
        assert store.num_stored == 12 + len(and_also)
        found = store.read(digests_of(range(12)), "top")
        assert (found == block_of(range(12)).taps["top"]).all()

    return check


def test_a_lost_catalog_is_rebuilt_from_the_shards(filled, assert_all_there):
    filled.catalog.unlink()
    assert_all_there(filled)


@pytest.mark.parametrize("place", [0, 0.01, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("rubbish", [b"", b"\0" * 4096, b"rubbish" * 600])
def test_a_catalog_overwritten_anywhere_is_no_loss(filled, assert_all_there, place, rubbish):
    data = filled.catalog.read_bytes()
    start = int(place * len(data))
    filled.catalog.write_bytes(data[:start] + rubbish + (data[start + len(rubbish) :] if rubbish else b""))
    assert_all_there(filled)


def test_a_catalog_that_is_wrong_about_a_shard_is_corrected(filled, space, block_of, digests_of):
    from pipeline.errors import DamagedError

    connection = sqlite3.connect(filled.catalog)
    connection.execute("UPDATE shards SET keys = (SELECT keys FROM shards WHERE sequence = 1) WHERE sequence = 2")
    connection.execute("DELETE FROM shards WHERE sequence = 1")
    connection.commit()
    connection.close()
    # the orphan's recovery alone makes it right again, but rows 0-3 now point to two shards
    store = FeatureWriter(filled, space)
    with pytest.raises(DamagedError):
        store.read(digests_of(range(4)), "top")
    assert store.num_stored == 12
    assert (store.read(digests_of(range(12)), "top") == block_of(range(12)).taps["top"]).all()
    assert not filled.quarantine.exists()


def test_a_shard_that_the_catalog_does_not_know_is_adopted(filled, assert_all_there):
    connection = sqlite3.connect(filled.catalog)
    connection.execute("DELETE FROM shards WHERE sequence = 2")
    connection.commit()
    connection.close()
    assert_all_there(filled)


def test_an_unknown_shard_that_is_damaged_goes_to_quarantine(filled, space, digests_of):
    filled.catalog.unlink()
    _, path = sorted(filled.shards(space.id))[0]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    store = FeatureWriter(filled, space)
    assert store.num_stored == 8
    assert not path.exists()
    assert [kept.name[9:] for kept in filled.quarantine.iterdir()] == [path.name]
    assert len(store.missing(digests_of(range(12)))) == 4


def test_a_shard_that_vanished_is_forgotten(filled, space, digests_of):
    _, path = sorted(filled.shards(space.id))[0]
    path.unlink()
    store = FeatureWriter(filled, space)
    assert store.num_stored == 8
    assert len(store.missing(digests_of(range(12)))) == 4


def test_a_catalog_of_a_newer_version_is_left_alone(filled, space, digests_of):
    connection = sqlite3.connect(filled.catalog)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(ConflictError, match="has version 9"):
        FeatureStore(filled, space).missing(digests_of([1]))
    assert filled.catalog.exists()


def test_a_catalog_that_cannot_be_opened_is_one_sentence(workspace, space, digests_of):
    workspace.catalog.mkdir()
    with pytest.raises(ConflictError, match=r"Cannot use .*catalog\.db"):
        FeatureStore(workspace, space).missing(digests_of([1]))


def test_foreign_files_among_the_shards_are_left_alone(filled, assert_all_there, space):
    folder = next(path for _, path in filled.shards(space.id)).parent
    (folder / ".DS_Store").write_bytes(b"")
    (folder / "notes.h5").write_bytes(b"mine")
    filled.catalog.unlink()
    assert_all_there(filled)
    assert (folder / "notes.h5").read_bytes() == b"mine"


# ── damage that shows only when the catalog is used ──────────────────────────────────────────────


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE shards SET keys = substr(keys, 2) WHERE sequence = 2",
        "UPDATE shards SET keys = 'text' WHERE sequence = 2",
        "UPDATE shards SET name = CAST(x'ff00' AS TEXT) WHERE sequence = 2",
        "UPDATE shards SET name = x'0102' WHERE sequence = 2",
        "UPDATE shards SET num_rows = 1 << 60 WHERE sequence = 2",
        "UPDATE shards SET num_rows = -1 WHERE sequence = 2",
        "UPDATE shards SET num_bytes = 'many' WHERE sequence = 2",
        "DROP TABLE shards",
    ],
)
@pytest.mark.parametrize("is_open", [True, False])
def test_a_catalog_that_holds_nonsense_is_built_anew(
    filled, space, block_of, digests_of, assert_all_there, change, is_open
):
    store = FeatureWriter(filled, space)
    if is_open:
        store.rejects([])
    connection = sqlite3.connect(filled.catalog)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(change)
    connection.commit()
    connection.close()
    assert store.missing(digests_of(range(13))) == digests_of([12])
    assert (store.read(digests_of(range(12)), "top") == block_of(range(12)).taps["top"]).all()
    Catalog(filled).check(lambda _, row: row.find_fault())
    assert_all_there(filled)


def test_a_catalog_overwritten_while_a_store_is_open_is_built_anew(
    filled, space, block_of, digests_of, assert_all_there
):
    with FeatureWriter(filled, space) as store:
        assert store.num_stored == 12
        filled.catalog.write_bytes(b"rubbish" * 5000)
        store.append(block_of([20]))
        store.commit()
        assert store.num_stored == 13
    assert_all_there(filled, and_also=[20])


def test_rows_that_a_catalog_under_construction_does_not_know_yet_are_not_missing(filled, space, digests_of):
    store = FeatureWriter(filled, space)
    assert store.num_stored == 12
    connection = sqlite3.connect(filled.catalog)
    connection.execute("DELETE FROM shards WHERE sequence > 1")
    connection.commit()
    connection.close()
    assert store.missing(digests_of(range(12))) == []


def test_nothing_is_read_again_after_a_commit(filled, space, block_of, digests_of, monkeypatch):
    store = FeatureWriter(filled, space)
    assert store.num_stored == 12
    asked = []
    shards = Catalog.shards
    monkeypatch.setattr(Catalog, "shards", lambda *arguments: asked.append(arguments[2]) or shards(*arguments))
    store.append(block_of([20]))
    store.commit()
    assert store.missing(digests_of([0, 11, 20])) == []
    assert asked == [3]  # what came after the third
