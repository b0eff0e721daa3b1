"""What is said about the place of a workspace is so."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from pipeline.errors import ConflictError
from storage.disk.atomic import Fs
from storage.maintenance.health import locks_after_writing
from storage.workspace import Workspace


def test_a_place_that_can_be_written_and_has_locks_is_said_to_and_nothing_stays(workspace):
    assert locks_after_writing(workspace)
    assert list(workspace.staging.folder.iterdir()) == []


def test_a_full_disk_is_an_error_and_nothing_stays(tmp_path):
    class Full(Fs):
        def fsync(self, descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Workspace.open(tmp_path)
    workspace = Workspace.open(tmp_path, create=False, fs=Full())
    with pytest.raises(ConflictError, match="Free some space"):
        locks_after_writing(workspace)
    assert list(workspace.staging.folder.iterdir()) == []


@pytest.mark.parametrize("refusal", [OSError(errno.ENOLCK, "No locks available"), None])
def test_a_file_system_without_locks_is_noticed_also_one_that_only_pretends(workspace, monkeypatch, refusal):
    def flock(descriptor, operation):
        if refusal:
            raise refusal

    monkeypatch.setattr(fcntl, "flock", flock)
    assert not locks_after_writing(workspace)
