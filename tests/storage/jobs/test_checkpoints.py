import errno
import itertools
import os
import random
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import storage.jobs.checkpoints
from pipeline.errors import ConflictError
from pipeline.types import Checkpoint
from storage.jobs.checkpoints import Checkpoints
from storage.workspace import Workspace
from tests.storage.faulty_disk import Death, FaultyDisk

CHANCE = random.Random(7)
SURVIVAL = {"nothing": lambda: False, "anything": lambda: CHANCE.random() < 0.5}  # of what was not synced


def a_checkpoint(step=10, **changed):
    rng = np.random.default_rng(step)
    arrays = {
        "network/0": rng.normal(size=(3, 3, 2, 4)).astype(np.float32),
        "network/1": np.array(7, np.int64),
        "optimizer/0": np.zeros((0, 5), np.float32),
        "best/0": rng.integers(0, 255, 600, np.uint8),
    }
    state = {"curve": [{"epoch": 0, "val_accuracy": 0.5}], "best_epoch": 0, "seconds": float(step)}
    return replace(Checkpoint(step, arrays, state), **changed)


def assert_same(found, wanted):
    assert (found.step, found.state) == (wanted.step, wanted.state)
    assert list(found.arrays) == list(wanted.arrays)
    for name, array in wanted.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array)


def checkpoints_of(root, fs=None):
    workspace = Workspace.open(root, fs=fs) if fs else Workspace.open(root)
    return Checkpoints(workspace, workspace.job("a-job") / "checkpoints" / "arm")


@pytest.fixture
def checkpoints(workspace):
    return checkpoints_of(workspace.root)


def test_what_is_written_is_read(checkpoints):
    assert checkpoints.read() is None
    checkpoints.write(a_checkpoint())
    assert_same(checkpoints.read(), a_checkpoint())


def test_the_newest_is_read_and_two_are_kept(checkpoints):
    for step in (1, 2, 3, 2):  # a later one of an earlier step is the later one
        checkpoints.write(a_checkpoint(step))
    assert_same(checkpoints.read(), a_checkpoint(2))
    assert len(checkpoints.paths()) == 2


@pytest.mark.parametrize("place", range(40))
def test_a_flipped_bit_is_noticed_and_the_one_before_is_read(checkpoints, place, caplog):
    checkpoints.write(a_checkpoint(1))
    checkpoints.write(a_checkpoint(2))
    newest = checkpoints.paths()[-1]
    data = bytearray(newest.read_bytes())
    bit = random.Random(place).randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    newest.write_bytes(data)
    assert_same(checkpoints.read(), a_checkpoint(1))
    assert "continues from the one before" in caplog.text
    checkpoints.write(a_checkpoint(3))
    assert_same(checkpoints.read(), a_checkpoint(3))


@pytest.mark.parametrize("size", [0, 1, 500])
def test_a_truncated_file_is_never_read(checkpoints, size, workspace):
    checkpoints.write(a_checkpoint())
    (path,) = checkpoints.paths()
    os.truncate(path, size)
    assert checkpoints.read() is None
    assert len(list(workspace.quarantine.iterdir())) == 1


def test_another_version_of_the_format_is_refused_and_kept(checkpoints, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("storage.jobs.checkpoints.VERSION", 2)
        checkpoints.write(a_checkpoint())
    with pytest.raises(ConflictError, match=r"headstart.checkpoint version 2; this headstart reads version 1"):
        checkpoints.read()
    assert len(checkpoints.paths()) == 1


@pytest.mark.parametrize(("number", "torn"), [(errno.ENOSPC, False), (errno.EIO, True)])
def test_a_failed_call_is_one_sentence_and_costs_nothing_kept(tmp_path, number, torn):
    refused = 0
    for k in itertools.count(1):
        root = tmp_path / str(k)
        checkpoints_of(root).write(a_checkpoint(1))
        fs = FaultyDisk(error=OSError(number, os.strerror(number)), torn=torn, bytes_per_write=2500)
        checkpoints = checkpoints_of(root, fs)
        fs.fail_at = fs.num_calls + k
        wanted = 2
        try:
            checkpoints.write(a_checkpoint(2))
            if fs.num_calls < fs.fail_at:
                break
        except ConflictError as error:
            refused += "Cannot write" in str(error)
            wanted = checkpoints_of(root).read().step
            assert wanted in (1, 2)  # 2 where only the folder's sync has failed
        fs.end_process()
        again = checkpoints_of(root)
        assert_same(again.read(), a_checkpoint(wanted))
        again.write(a_checkpoint(3))
        assert_same(again.read(), a_checkpoint(3))
    assert refused >= 4


@pytest.mark.parametrize("torn", [False, True])
def test_a_process_may_die_and_the_power_may_go_at_any_call(tmp_path, torn):
    for k in itertools.count(1):
        root = tmp_path / str(k) / "workspace"
        root.parent.mkdir()
        fs = FaultyDisk(error=Death(), torn=torn, bytes_per_write=2500)
        checkpoints = checkpoints_of(root, fs)
        promised = 0
        fs.fail_at = fs.num_calls + k
        try:
            for step in (1, 2, 3):
                checkpoints.write(a_checkpoint(step))
                promised = step
        except Death:
            fs.end_process()
        else:
            break
        cuts = [tmp_path / f"{k} {name}" for name in SURVIVAL]
        for cut, survives in zip(cuts, SURVIVAL.values(), strict=True):
            fs.cut_power(root.parent, cut, survives, survives)
        for place in (root, *(cut / "workspace" for cut in cuts)):
            if not (place / "FORMAT.json").exists():
                continue
            found = checkpoints_of(place).read()
            step = found.step if found else 0
            assert promised <= step <= promised + 1
            if found:
                assert_same(found, a_checkpoint(step))
            checkpoints_of(place).write(a_checkpoint(9))
            assert_same(checkpoints_of(place).read(), a_checkpoint(9))
    assert k > 15


def refuse_the_newest(monkeypatch, checkpoints, error):
    newest, hash_file = checkpoints.paths()[-1], storage.jobs.checkpoints.hash_file

    def refuse(path):
        if path == newest:
            raise error
        return hash_file(path)

    monkeypatch.setattr("storage.jobs.checkpoints.hash_file", refuse)


def test_with_a_bad_sector_in_the_newest_the_one_before_is_read(checkpoints, monkeypatch):
    checkpoints.write(a_checkpoint(1))
    checkpoints.write(a_checkpoint(2))
    refuse_the_newest(monkeypatch, checkpoints, OSError(errno.EIO, "Input/output error"))
    assert_same(checkpoints.read(), a_checkpoint(1))


def test_what_cannot_be_opened_now_is_not_taken_for_damaged(checkpoints, monkeypatch):
    checkpoints.write(a_checkpoint(1))
    checkpoints.write(a_checkpoint(2))
    with monkeypatch.context() as patch:
        refuse_the_newest(patch, checkpoints, OSError(errno.EMFILE, "Too many open files"))
        with pytest.raises(ConflictError, match="Too many open files"):
            checkpoints.read()
    assert_same(checkpoints.read(), a_checkpoint(2))


def test_too_little_memory_is_not_taken_for_damage(checkpoints, monkeypatch):
    def refuse(*_):
        raise MemoryError

    checkpoints.write(a_checkpoint())
    with monkeypatch.context() as patch:
        patch.setattr(storage.jobs.checkpoints, "check_header", refuse)
        with pytest.raises(MemoryError):
            checkpoints.read()
    assert_same(checkpoints.read(), a_checkpoint())


def test_writing_holds_one_more_copy_in_memory_and_reading_one(checkpoints):
    size = 1 << 24
    large = a_checkpoint(arrays={"network/0": np.ones(size, np.uint8)})
    checkpoints.write(a_checkpoint())  # whatever is imported on first use
    tracemalloc.start()
    try:
        checkpoints.write(large)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * size
        tracemalloc.reset_peak()
        checkpoints.read()
        assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    finally:
        tracemalloc.stop()
