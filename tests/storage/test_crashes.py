"""What survives when a write fails, a process dies or the power goes, at every call that changes the disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConflictError
from storage.atomic import Fs
from storage.features import FeatureStore
from storage.workspace import Workspace

REPOSITORY = Path(__file__).parents[2]
BATCHES = [range(4), range(4, 8), range(6, 12)]


class Death(BaseException):
    """The process ends here: nothing that it would have done afterwards happens."""


class FaultyFs(Fs):
    """Fails at the k-th call; knows what a power cut would take."""

    def __init__(self, fail_at=0, error=None, torn=False):
        self.num_calls = 0
        self.fail_at = fail_at
        self.error = error
        self._torn = torn
        self._dead = False
        self._paths = {}
        self._unsynced = set()  # files whose bytes are not on disk
        self._unnamed = set()  # paths whose folder is not on disk

    def _step(self):
        if self._dead:
            raise Death
        self.num_calls += 1
        if self.num_calls == self.fail_at:
            self._dead = isinstance(self.error, Death)
            raise self.error

    def open_exclusive(self, path, mode):
        self._step()
        descriptor = super().open_exclusive(path, mode)
        self._paths[descriptor] = path
        self._unsynced.add(path)
        self._unnamed.add(path)
        return descriptor

    def write(self, descriptor, data):
        try:
            self._step()
        except (Death, OSError):
            if self._torn:
                super().write(descriptor, data[: len(data) // 2])
            raise
        return super().write(descriptor, data)

    def fsync(self, descriptor):
        self._step()
        self._unsynced.discard(self._paths[descriptor])

    def fsync_path(self, path):
        self._step()
        self._unsynced.discard(path)
        self._unnamed = {name for name in self._unnamed if name.parent != path}

    def rename(self, source, target):
        self._step()
        super().rename(source, target)
        self._moved(source, target)
        self._unnamed.discard(source)

    def link(self, source, target):
        self._step()
        super().link(source, target)
        self._moved(source, target)

    def _moved(self, source, target):
        if source in self._unsynced:
            self._unsynced.add(target)
        self._unnamed.add(target)

    def unlink(self, path):
        self._step()
        super().unlink(path)
        self._unnamed.discard(path)

    def mkdir(self, folder):
        self._step()
        super().mkdir(folder)
        self._unnamed.add(folder)

    def remove_tree(self, folder):
        self._step()
        super().remove_tree(folder)

    def cut_power(self):
        """Take away all that was not synced: bytes of files, and names in folders."""
        for path in self._unsynced:
            if path.exists():
                path.chmod(0o644)
                path.write_bytes(b"")
        for path in self._unnamed:
            if path.is_dir():
                super().remove_tree(path)
            else:
                path.unlink(missing_ok=True)


@pytest.fixture
def write_all(space, block_of):
    """Write everything a store can hold; tell after each commit what is now promised."""

    def write(root, fs, promised):
        store = FeatureStore(Workspace.open(root, fs=fs), space)
        store.write_canary(block_of([100]))
        for numbers in BATCHES:
            store.append(block_of(numbers))
            store.commit()
            promised.update(numbers)

    return write


@pytest.fixture
def assert_kept(space, block_of, digests_of):
    """A fresh process reads what was promised, finds no half of anything, and can go on."""

    def check(root, promised):
        store = FeatureStore(Workspace.open(root), space)
        kept = sorted(set(range(12)) - {n for n in range(12) if store.missing(digests_of([n]))})
        assert promised <= set(kept)
        for tap in space.taps:
            np.testing.assert_array_equal(store.read(digests_of(kept), tap.name), block_of(kept).taps[tap.name])
        canary = store.read_canary()
        assert canary is None or canary.digests == block_of([100]).digests
        with store:
            store.append(block_of(n for n in range(12) if n not in kept))
        assert store.missing(digests_of(range(12))) == []

    return check


@pytest.fixture(scope="module")
def num_calls(tmp_path_factory, space, block_of):
    fs = FaultyFs()
    store = FeatureStore(Workspace.open(tmp_path_factory.mktemp("count") / "workspace", fs=fs), space)
    store.write_canary(block_of([100]))
    for numbers in BATCHES:
        store.append(block_of(numbers))
        store.commit()
    return fs.num_calls


def test_the_calls_that_can_fail_are_all_ours(num_calls):
    assert 40 < num_calls < 100


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failed_call_is_an_error_and_nothing_promised_is_lost(
    tmp_path, write_all, assert_kept, num_calls, number, torn
):
    for k in range(1, num_calls + 1):
        promised = set()
        with pytest.raises(ConflictError, match="Cannot write"):
            write_all(tmp_path / str(k), FaultyFs(k, OSError(number, os.strerror(number)), torn), promised)
        assert_kept(tmp_path / str(k), promised)
        leftovers = list((tmp_path / str(k) / "staging").iterdir())
        assert len(leftovers) <= 1  # one, where removing it was the call that failed


@pytest.mark.parametrize("torn", [False, True])
def test_a_process_may_die_at_any_call(tmp_path, write_all, assert_kept, num_calls, torn):
    for k in range(1, num_calls + 1):
        promised = set()
        with pytest.raises(Death):
            write_all(tmp_path / str(k), FaultyFs(k, Death(), torn), promised)
        assert_kept(tmp_path / str(k), promised)


def test_the_power_may_go_at_any_call(tmp_path, write_all, assert_kept, num_calls):
    for k in range(1, num_calls + 1):
        promised, fs = set(), FaultyFs(k, Death())
        with pytest.raises(Death):
            write_all(tmp_path / str(k), fs, promised)
        fs.cut_power()
        assert_kept(tmp_path / str(k), promised)


def test_a_commit_that_failed_can_be_called_again(tmp_path, space, block_of, digests_of, num_calls):
    for k in range(1, num_calls + 1):
        fs = FaultyFs()
        store = FeatureStore(Workspace.open(tmp_path / str(k), fs=fs), space)
        store.append(block_of(range(4)))
        fs.fail_at, fs.error = fs.num_calls + k, OSError(errno.EIO, "Input/output error")
        try:
            store.commit()
        except ConflictError:
            store.commit()
        else:
            break
        assert store.missing(digests_of(range(4))) == []
        np.testing.assert_array_equal(store.read(digests_of(range(4)), "top"), block_of(range(4)).taps["top"])
    assert k > 10


# ── real processes ───────────────────────────────────────────────────────────────────────────────

WRITER = """
import hashlib, sys
import numpy as np
from pipeline.types import FeatureBlock
from storage.features import FeatureStore
from storage.spaces import list_spaces
from storage.workspace import Workspace

workspace = Workspace.open(sys.argv[1])
[space] = list_spaces(workspace)
store = FeatureStore(workspace, space)
print("ready", flush=True)
sys.stdin.readline()
for start in range(int(sys.argv[2]), int(sys.argv[3]), 4):
    numbers = np.arange(start, start + 4)
    taps = {
        tap.name: ((31 * numbers[:, None] + 7 * np.arange(tap.dim) + 3 * offset) % 2048).astype(np.float32)
        for offset, tap in enumerate(space.taps)
    }
    store.append(FeatureBlock(tuple(hashlib.sha256(b"%d" % n).digest() for n in numbers), taps))
    store.commit()
    print(start + 4, flush=True)
"""


@pytest.fixture
def start_writer(workspace, space):
    from storage.spaces import write_space

    write_space(workspace, space)
    running = []

    def start(first, last):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(workspace.root), str(first), str(last)],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def test_no_acknowledged_row_is_lost_to_kill_9(workspace, space, block_of, digests_of, start_writer):
    promised = 0
    for num_commits in range(1, 11):
        writer = start_writer(promised, promised + 10_000)
        go(writer)
        for _ in range(num_commits):
            promised = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        promised = max([promised, *map(int, writer.communicate()[0].split())])
        store = FeatureStore(workspace, space)
        assert store.missing(digests_of(range(promised))) == []
        np.testing.assert_array_equal(
            store.read(digests_of(range(promised)), "top"), block_of(range(promised)).taps["top"]
        )
    assert not workspace.quarantine.exists()


def test_two_processes_may_write_the_same_images_at_once(workspace, space, block_of, digests_of, start_writer):
    writers = [start_writer(0, 80), start_writer(40, 120)]
    for writer in writers:
        go(writer)
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    store = FeatureStore(workspace, space)
    assert store.num_stored == 120
    for tap in space.taps:
        np.testing.assert_array_equal(store.read(digests_of(range(120)), tap.name), block_of(range(120)).taps[tap.name])
    store.verify()
