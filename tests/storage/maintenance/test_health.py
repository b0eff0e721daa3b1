"""What is said about the place of a workspace is so."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from pipeline.errors import ConflictError
from storage.disk.atomic import Fs
from storage.disk.locks import is_locked
from storage.features.claims import Claims
from storage.jobs.folder import running
from storage.maintenance import health
from storage.maintenance.health import find_holders, list_claims, list_lockable, locks_after_writing, measure_room
from storage.workspace import Workspace

HOLD = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(descriptor, fcntl.LOCK_SH)
print("held", flush=True)
sys.stdin.read()
"""
linux_only = pytest.mark.skipif(not health.LOCKS_FILE.exists(), reason="only Linux says who holds what")


@pytest.fixture
def holder():
    """Start a process that locks a path: `holder(path)` is it."""
    started = []

    def hold(path):
        command = [sys.executable, "-c", HOLD, str(path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def test_a_place_that_can_be_written_and_has_locks_is_said_to_and_nothing_stays(workspace):
    assert locks_after_writing(workspace)
    assert list(workspace.staging.iterdir()) == []


def test_a_full_disk_is_an_error_and_nothing_stays(tmp_path):
    class Full(Fs):
        def fsync(self, descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Workspace.open(tmp_path)
    workspace = Workspace.open(tmp_path, create=False, fs=Full())
    with pytest.raises(ConflictError, match="Free some space"):
        locks_after_writing(workspace)
    assert list(workspace.staging.iterdir()) == []


@pytest.mark.parametrize("refusal", [OSError(errno.ENOLCK, "No locks available"), None])
def test_a_file_system_without_locks_is_noticed_also_one_that_only_pretends(workspace, monkeypatch, refusal):
    def flock(descriptor, operation):
        if refusal:
            raise refusal

    monkeypatch.setattr(health.fcntl, "flock", flock)
    assert not locks_after_writing(workspace)


def test_room_is_asked_of_the_nearest_folder_that_is_there(tmp_path):
    room = measure_room(tmp_path / "none" / "yet")
    assert 0 < room.free_bytes < room.total_bytes
    assert room.total_bytes == measure_room(tmp_path).total_bytes


def test_a_claim_is_of_a_live_process_or_of_a_dead_one(workspace, space, digests_of):
    with Claims(workspace, space) as held:
        held.take(digests_of(range(3)))
        (path,) = workspace.claims(space.id).iterdir()
        left = path.with_name("left.claim")
        left.write_bytes(b"".join(digests_of(range(5))))
        os.utime(left, (0, 0))
        found = {claim.path: claim for claim in list_claims(workspace)}
        assert (found[path].num_pictures, found[path].is_held, found[path].is_stale) == (3, True, False)
        assert (found[left].num_pictures, found[left].is_held, found[left].is_stale) == (5, False, True)


def test_everything_that_a_process_keeps_locked_is_listed(workspace, space, digests_of):
    workspace.space(space.id).mkdir(parents=True)
    with Claims(workspace, space) as claims, running(workspace, "a" * 16, {}):
        claims.take(digests_of(range(3)))
        assert [path.relative_to(workspace.root).parts[0] for path in list_lockable(workspace)] == [
            "claims",
            "jobs",
            "spaces",
        ]


@linux_only
def test_whoever_holds_a_lock_is_named_and_whether_it_is_stopped(tmp_path, holder):
    taken, free = tmp_path / "taken", tmp_path / "free"
    taken.touch()
    free.touch()
    process = holder(taken)
    (found,) = find_holders([taken, free, tmp_path / "gone"])[taken]
    assert (found.pid, found.is_stopped) == (process.pid, False)
    assert found.command.startswith(os.path.basename(sys.executable))
    assert (is_locked(taken), is_locked(free)) == (False, False)  # it shares; who would be alone is refused
    os.kill(process.pid, signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    assert [holder.is_stopped for holder in find_holders([taken])[taken]] == [True]
    assert find_holders([free]) == {}


@linux_only
def test_a_lock_on_another_file_system_with_the_same_number_is_not_ours(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.touch()
    rows = tmp_path / "locks"
    rows.write_text(
        f"1: FLOCK  ADVISORY  WRITE {os.getpid()} 00:99:{path.stat().st_ino} 0 EOF\n"
        f"2: -> FLOCK  ADVISORY  WRITE {os.getpid()} 00:99:{path.stat().st_ino} 0 EOF\n"
        "3: POSIX  ADVISORY  WRITE\n"
    )
    monkeypatch.setattr(health, "LOCKS_FILE", rows)
    assert find_holders([path]) == {}
    with path.open():
        assert [holder.pid for holder in find_holders([path])[path]] == [os.getpid()]


def test_where_nobody_can_be_named_nobody_is(tmp_path, monkeypatch):
    monkeypatch.setattr(health, "LOCKS_FILE", tmp_path / "none")
    assert find_holders([tmp_path]) == {}
