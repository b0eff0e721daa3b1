from __future__ import annotations

import errno
import os

import pytest

from pipeline.errors import ConflictError, NotFoundError
from storage.disk.atomic import Fs, Staging, explained, write_once, write_whole


class OneByteFs(Fs):
    def write(self, descriptor, data):
        return os.write(descriptor, data[:1])


class RefusingFs(Fs):
    def __init__(self, number):
        self.number = number

    def fsync(self, descriptor):
        raise OSError(self.number, os.strerror(self.number))


def test_a_file_replaces_the_one_before(tmp_path):
    write_whole(tmp_path / "deep" / "file", b"one")
    write_whole(tmp_path / "deep" / "file", b"two")
    assert (tmp_path / "deep" / "file").read_bytes() == b"two"
    assert os.listdir(tmp_path / "deep") == ["file"]


def test_short_writes_are_continued(tmp_path):
    write_whole(tmp_path / "file", b"all of it", Staging(tmp_path, OneByteFs()))
    assert (tmp_path / "file").read_bytes() == b"all of it"


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "Free some space"), (errno.EROFS, "choose another place"), (errno.EIO, "Input/output")],
)
def test_a_refused_write_is_one_sentence_and_leaves_the_old_file(tmp_path, number, words):
    write_whole(tmp_path / "file", b"old")
    with pytest.raises(ConflictError, match=words) as caught:
        write_whole(tmp_path / "file", b"new", Staging(tmp_path, RefusingFs(number)))
    assert str(tmp_path / "file") in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_of_headstart_is_not_taken_for_a_refusal_of_the_disk(tmp_path):
    with pytest.raises(NotFoundError, match=r"^There is no model 'pets'\.$"), explained(tmp_path):
        raise NotFoundError("There is no model 'pets'.")


def test_of_two_writers_the_first_wins(tmp_path):
    assert write_once(tmp_path / "file", b"first") is True
    assert write_once(tmp_path / "file", b"second") is False
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]
