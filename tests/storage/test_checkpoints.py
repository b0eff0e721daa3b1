import errno
import itertools
import os
import random
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import ConflictError
from pipeline.types import Checkpoint
from storage.checkpoints import Checkpoints
from storage.workspace import Workspace
from tests.storage.faulty_disk import Death, FaultyDisk

NOTHING = (lambda: False, lambda: False)


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
    assert "going on from the one before" in caplog.text
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
        patch.setattr("storage.checkpoints.VERSION", 2)
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
        there = tmp_path / f"{k} cut"
        fs.cut_power(root.parent, there, *NOTHING)
        for place in (root, there / "workspace"):
            if not (place / "FORMAT.json").exists():
                continue
            found = checkpoints_of(place).read()
            step = found.step if found else 0
            assert promised <= step <= promised + 1
            if found:
                assert_same(found, a_checkpoint(step))
    assert k > 15
