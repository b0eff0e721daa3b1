from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConflictError, DamagedError, NotFoundError
from storage.disk.atomic import (
    GRACE_SECONDS,
    REAL,
    Fs,
    Stage,
    parse_json,
    publish_folder,
    read_json,
    scratch_folder,
    sweep,
    to_json,
    write_json,
    write_once,
    write_whole,
)


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
    write_whole(tmp_path / "file", b"all of it", Stage(fs=OneByteFs()))
    assert (tmp_path / "file").read_bytes() == b"all of it"


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "Free some space"), (errno.EROFS, "choose another place"), (errno.EIO, "Input/output")],
)
def test_a_refused_write_is_one_sentence_and_leaves_the_old_file(tmp_path, number, words):
    write_whole(tmp_path / "file", b"old")
    with pytest.raises(ConflictError, match=words) as caught:
        write_whole(tmp_path / "file", b"new", Stage(fs=RefusingFs(number)))
    assert str(tmp_path / "file") in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_of_two_writers_the_first_wins(tmp_path):
    assert write_once(tmp_path / "file", b"first") is True
    assert write_once(tmp_path / "file", b"second") is False
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


@given(st.dictionaries(st.text().filter(lambda key: key not in ("format", "version", "checksum")), st.text()))
def test_a_document_comes_back_as_it_was(value):
    document = parse_json(to_json(value, "headstart.test", 1), "file")
    assert document.pop("checksum")
    assert document == {"format": "headstart.test", "version": 1, **value}


def test_a_document_that_was_touched_is_damaged(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"distance": 0.031, "name": "pets"}, "headstart.test", 1)
    whole = path.read_bytes()
    for place, byte in enumerate(whole):
        path.write_bytes(whole[:place] + bytes([byte ^ 1]) + whole[place + 1 :])
        try:
            document = read_json(path, "headstart.test", 1)
        except DamagedError:
            continue
        assert (document["distance"], document["name"]) == (0.031, "pets")  # white space
    write_json(path, {"distance": 0.031}, "headstart.test", 1)
    path.write_text(path.read_text().replace("checksum", "chocksum"))
    with pytest.raises(DamagedError, match="checksum"):
        read_json(path, "headstart.test", 1)


def test_undecodable_names_survive_json(tmp_path):
    write_json(tmp_path / "a.json", {"path": os.fsdecode(b"cat-\xff.jpg")}, "headstart.test", 1)
    assert os.fsencode(read_json(tmp_path / "a.json", "headstart.test", 1)["path"]) == b"cat-\xff.jpg"


def test_a_document_cannot_name_its_own_format():
    with pytest.raises(ValueError, match="version"):
        to_json({"version": 3}, "headstart.test", 1)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b'{"format": "headstart.test", "version": 2}', ConflictError, "version 2"),
        (b'{"format": "headstart.other", "version": 1}', DamagedError, "wanted 'headstart.test'"),
        (b'{"format": "headstart.test", "versinn": 1}', DamagedError, "names no version"),
        (b'{"format": "headst', DamagedError, "not JSON"),
        (b"\xff\xfe", DamagedError, "not JSON"),
        (b"[]", DamagedError, "no JSON object"),
    ],
)
def test_a_reader_refuses_what_it_does_not_know(tmp_path, content, error, words):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(error, match=words):
        read_json(tmp_path / "a.json", "headstart.test", 1)


def test_a_document_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFoundError):
        read_json(tmp_path / "a.json", "headstart.test", 1)


def test_a_folder_appears_whole(tmp_path):
    with scratch_folder(tmp_path / "staging", REAL) as scratch:
        (scratch / "sub").mkdir()
        (scratch / "sub" / "file").write_bytes(b"content")
        assert publish_folder(scratch, tmp_path / "deep" / "final", REAL)
    assert (tmp_path / "deep" / "final" / "sub" / "file").read_bytes() == b"content"
    assert os.listdir(tmp_path / "staging") == []


def test_a_folder_never_replaces_another(tmp_path):
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "file").write_bytes(b"old")
    with scratch_folder(tmp_path / "staging", REAL) as scratch:
        (scratch / "file").write_bytes(b"new")
        assert not publish_folder(scratch, tmp_path / "final", REAL)
    assert (tmp_path / "final" / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path / "staging") == []


def test_nothing_remains_of_a_folder_that_was_given_up(tmp_path):
    def interrupted():
        with scratch_folder(tmp_path / "staging", REAL) as scratch:
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
    sweep(tmp_path, REAL)
    assert os.listdir(tmp_path) == [".young.part"]


def test_what_a_living_process_holds_is_not_swept(tmp_path):
    with scratch_folder(tmp_path, REAL) as scratch:
        make_old(scratch)
        sweep(tmp_path, REAL)
        assert scratch.is_dir()


def test_sweeping_nothing_is_fine(tmp_path):
    sweep(tmp_path / "absent", REAL)
