"""What is in use is locked, for as long as its process lives and no longer."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.errors import ConflictError
from storage.disk.locks import Usage, alone
from storage.features.store import StoredTaps, open_features
from storage.features.writer import FeatureWriter

REPOSITORY = Path(__file__).parents[3]

HOLDER = """
import sys
from pathlib import Path
from storage.disk.locks import Usage
usage = Usage(Path(sys.argv[1]))
usage.begin()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Let another process use a folder."""
    running = []

    def start(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder)],
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


def is_free(folder):
    with alone(folder) as free:
        return free


def test_a_folder_is_in_use_until_the_process_ends_however_that_ends(tmp_path, hold):
    assert is_free(tmp_path)
    users = [hold(tmp_path), hold(tmp_path)]
    assert not is_free(tmp_path)
    users[0].kill()
    users[0].wait()
    assert not is_free(tmp_path)
    users[1].kill()
    users[1].wait()
    assert is_free(tmp_path)


def test_an_open_store_uses_its_space_from_its_first_row_on(workspace, space, block_of):
    store = FeatureWriter(workspace, space)
    assert not workspace.space(space.id).exists()
    store.append(block_of([1]))
    store.commit()
    assert not is_free(workspace.space(space.id))
    store.close()
    assert is_free(workspace.space(space.id))
    with open_features(workspace, space):
        assert not is_free(workspace.space(space.id))
    assert is_free(workspace.space(space.id))
    taps = StoredTaps(workspace, [space], [], ["top"])
    assert not is_free(workspace.space(space.id))
    del taps
    assert is_free(workspace.space(space.id))


@pytest.mark.parametrize("removed", [False, True])
def test_whoever_comes_while_something_is_removed_waits(tmp_path, removed):
    folder = tmp_path / "space"
    folder.mkdir()
    waiting = threading.Event()
    listener = logging.Handler()
    listener.emit = lambda record: waiting.set()
    logging.getLogger("storage.disk.locks").addHandler(listener)
    usage = Usage(folder)
    try:
        with alone(folder):
            thread = threading.Thread(target=usage.begin)
            thread.start()
            assert waiting.wait(timeout=60)
            if removed:
                shutil.rmtree(folder)
        thread.join(timeout=60)
        assert not thread.is_alive()
    finally:
        logging.getLogger("storage.disk.locks").removeHandler(listener)
    folder.mkdir(exist_ok=True)
    assert is_free(folder) == removed  # what was removed while we waited is not held
    usage.begin()
    assert not is_free(folder)


def test_without_locks_nobody_is_alone_and_everybody_may_use(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    Usage(tmp_path).begin()
    with pytest.raises(ConflictError, match="nothing is removed"), alone(tmp_path):
        pass
