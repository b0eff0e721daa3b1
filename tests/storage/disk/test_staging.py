from __future__ import annotations

import os

import pytest

from storage.disk.atomic import Staging
from storage.disk.staging import GRACE_SECONDS, publish_folder, scratch_folder, sweep


def test_a_folder_appears_whole(tmp_path):
    with scratch_folder(Staging(tmp_path / "staging")) as scratch:
        (scratch / "sub").mkdir()
        (scratch / "sub" / "file").write_bytes(b"content")
        assert publish_folder(scratch, tmp_path / "deep" / "final", Staging(tmp_path / "staging"))
    assert (tmp_path / "deep" / "final" / "sub" / "file").read_bytes() == b"content"
    assert os.listdir(tmp_path / "staging") == []


def test_a_folder_never_replaces_another(tmp_path):
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "file").write_bytes(b"old")
    with scratch_folder(Staging(tmp_path / "staging")) as scratch:
        (scratch / "file").write_bytes(b"new")
        assert not publish_folder(scratch, tmp_path / "final", Staging(tmp_path / "staging"))
    assert (tmp_path / "final" / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path / "staging") == []


def test_nothing_remains_of_a_folder_that_was_given_up(tmp_path):
    def interrupted():
        with scratch_folder(Staging(tmp_path / "staging")) as scratch:
            (scratch / "file").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path / "staging") == []


def make_old(path):
    long_ago = path.stat().st_mtime - 2 * GRACE_SECONDS
    os.utime(path, (long_ago, long_ago))


def test_leftovers_of_dead_processes_are_swept(tmp_path):
    (tmp_path / ".dead.part").write_bytes(b"half")
    (tmp_path / ".dead-folder.part").mkdir()
    (tmp_path / ".dead-folder.part" / "file").write_bytes(b"half")
    (tmp_path / ".young.part").write_bytes(b"perhaps not locked yet")
    make_old(tmp_path / ".dead.part")
    make_old(tmp_path / ".dead-folder.part")
    sweep(Staging(tmp_path))
    assert os.listdir(tmp_path) == [".young.part"]


def test_what_a_living_process_holds_is_not_swept(tmp_path):
    with scratch_folder(Staging(tmp_path)) as scratch:
        make_old(scratch)
        sweep(Staging(tmp_path))
        assert scratch.is_dir()


def test_sweeping_nothing_is_fine(tmp_path):
    sweep(Staging(tmp_path / "absent"))
