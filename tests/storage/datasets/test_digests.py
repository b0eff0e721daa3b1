from __future__ import annotations

import os
from dataclasses import replace

import pytest

from pipeline.types import FileEntry
from storage.datasets.digests import TICK_NS, DigestMemory

SECOND = 1_000_000_000
ENTRY = FileEntry(path="cats/a.jpg", size_bytes=10, mtime_ns=100 * SECOND, split=None, labels=("cats",))
LATER = ENTRY.mtime_ns + TICK_NS


@pytest.fixture
def memory(workspace):
    return DigestMemory(workspace)


def test_an_unchanged_file_is_recalled(memory, workspace):
    broken = replace(ENTRY, path="cats/b.jpg")
    memory.remember("/data", {ENTRY.path: (ENTRY, b"d" * 32), broken.path: (broken, "no picture")}, LATER)
    known = {"cats/a.jpg": b"d" * 32, "cats/b.jpg": "no picture"}
    assert DigestMemory(workspace).recall("/data", [ENTRY, broken]) == known


@pytest.mark.parametrize("change", [{"size_bytes": 11}, {"mtime_ns": 101 * SECOND}, {"path": "cats/c.jpg"}])
def test_a_changed_file_is_not_recalled(memory, change):
    memory.remember("/data", {ENTRY.path: (ENTRY, b"d" * 32)}, LATER)
    assert memory.recall("/data", [replace(ENTRY, **change)]) == {}


def test_a_file_that_was_young_when_it_was_read_is_not_trusted(memory):
    memory.remember("/data", {ENTRY.path: (ENTRY, b"d" * 32)}, LATER - 1)
    assert memory.recall("/data", [ENTRY]) == {}


def test_the_last_reading_counts(memory):
    memory.remember("/data", {ENTRY.path: (ENTRY, b"d" * 32)}, LATER)
    memory.remember("/data", {ENTRY.path: (ENTRY, b"e" * 32)}, LATER + SECOND)
    assert memory.recall("/data", [ENTRY]) == {ENTRY.path: b"e" * 32}


def test_nothing_is_recalled_when_everything_shall_be_read_again(memory):
    memory.remember("/data", {ENTRY.path: (ENTRY, b"d" * 32)}, LATER)
    assert memory.recall("/data", [ENTRY], rehash=True) == {}


def test_folders_whose_names_begin_alike_are_apart(memory):
    for root in ("/data", "/data2", "/data/cats", "/data0", "/"):
        memory.remember(root, {ENTRY.path: (ENTRY, root.encode().ljust(32))}, LATER)
    for root in ("/data", "/data2", "/data/cats", "/data0", "/"):
        assert memory.recall(root, [ENTRY]) == {ENTRY.path: root.encode().ljust(32)}


def test_undecodable_names_are_recalled(memory):
    entry = replace(ENTRY, path=os.fsdecode(b"caf\xff/\xfe.jpg"))
    memory.remember("/data", {entry.path: (entry, "broken: caf\udcff")}, LATER)
    assert memory.recall("/data", [entry]) == {entry.path: "broken: caf\\udcff"}


def test_a_damaged_memory_is_set_aside_and_begun_anew(memory, workspace):
    memory.remember("/data", {ENTRY.path: (ENTRY, b"d" * 32)}, LATER)
    workspace.digests.write_bytes(b"no database" * 1000)
    fresh = DigestMemory(workspace)
    assert fresh.recall("/data", [ENTRY]) == {}
    fresh.remember("/data", {ENTRY.path: (ENTRY, b"d" * 32)}, LATER)
    assert fresh.recall("/data", [ENTRY]) == {ENTRY.path: b"d" * 32}
    assert "-digests.db" in {path.name[8:] for path in workspace.quarantine.iterdir()}
