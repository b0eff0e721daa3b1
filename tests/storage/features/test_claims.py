"""Work is shared between runs, and nothing ever rests on a claim but time."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.disk.atomic import Fs
from storage.features import claims
from storage.features.claims import Claims
from storage.workspace import Workspace

REPOSITORY = Path(__file__).parents[3]


def files(workspace, space):
    return list(workspace.claims(space.id).glob("*.claim"))


def test_what_one_run_has_claimed_another_does_not_get(workspace, space, digests_of):
    with Claims(workspace, space) as first, Claims(workspace, space) as second:
        assert first.take(digests_of(range(5))) == digests_of(range(5))
        assert second.take(digests_of(range(3, 8))) == digests_of(range(5, 8))


def test_claims_of_another_space_are_nobodys_business(workspace, space, digests_of):
    from dataclasses import replace

    with Claims(workspace, space) as first, Claims(workspace, replace(space, backbone="other")) as second:
        first.take(digests_of(range(5)))
        assert second.take(digests_of(range(5))) == digests_of(range(5))


def test_a_claim_is_given_back_when_nothing_of_it_is_missing_any_more(workspace, space, digests_of):
    with Claims(workspace, space) as first, Claims(workspace, space) as second:
        first.take(digests_of(range(4)))
        first.take(digests_of(range(4, 8)))
        first.keep(digests_of([7]))
        assert sorted(first.digests) == sorted(digests_of(range(4, 8)))
        assert second.take(digests_of(range(8))) == digests_of(range(4))


def test_everything_is_given_back_at_the_end(workspace, space, digests_of):
    with Claims(workspace, space) as owner:
        owner.take(digests_of(range(4)))
        assert len(files(workspace, space)) == 1
    assert files(workspace, space) == []


def test_the_claims_of_a_process_that_was_killed_are_void(workspace, space, digests_of):
    code = (
        "import sys, os, signal, hashlib\n"
        "from storage.features.claims import Claims\n"
        "from storage.features.spaces import list_spaces\n"
        "from storage.workspace import Workspace\n"
        "workspace = Workspace.open(sys.argv[1])\n"
        "[space] = list_spaces(workspace)\n"
        "Claims(workspace, space).take([hashlib.sha256(str(n).encode()).digest() for n in range(4)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    from storage.features.spaces import write_space

    write_space(workspace, space)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", code, str(workspace.root)], env=environment, check=False)
    assert len(files(workspace, space)) == 1
    with Claims(workspace, space) as heir:
        assert heir.take(digests_of(range(6))) == digests_of(range(6))
        assert len(files(workspace, space)) == 1  # the dead one's file is gone


def test_a_process_that_showed_nothing_for_long_is_not_waited_for(workspace, space, digests_of):
    with Claims(workspace, space) as stuck, Claims(workspace, space) as other:
        stuck.take(digests_of(range(4)))
        [path] = files(workspace, space)
        old = path.stat().st_mtime - claims.STALE_SECONDS - 1
        os.utime(path, (old, old))
        assert other.take(digests_of(range(4))) == digests_of(range(4))


def test_a_long_batch_keeps_its_claim_by_being_refreshed(workspace, space, digests_of, monkeypatch):
    monkeypatch.setattr(claims, "REFRESH_SECONDS", 0.0)
    with Claims(workspace, space) as slow, Claims(workspace, space) as other:
        slow.take(digests_of(range(4)))
        [path] = files(workspace, space)
        old = path.stat().st_mtime - claims.STALE_SECONDS - 1
        os.utime(path, (old, old))
        slow.refresh()
        assert other.take(digests_of(range(4))) == []


@pytest.mark.parametrize("call", ["mkdir", "open_exclusive", "write", "unlink"])
def test_a_disk_that_cannot_take_claims_costs_no_more_than_claims(tmp_path, space, digests_of, call):

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fs = Fs()
    workspace = Workspace.open(tmp_path / "workspace", fs=fs)
    setattr(fs, call, fail)
    with Claims(workspace, space) as owner:
        assert owner.take(digests_of(range(4))) == digests_of(range(4))


def test_without_locks_everybody_works_alone(workspace, space, digests_of, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Claims(workspace, space) as first, Claims(workspace, space) as second:
        assert first.take(digests_of(range(4))) == second.take(digests_of(range(4))) == digests_of(range(4))
