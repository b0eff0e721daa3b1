from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConflictError, DamagedError, NotFoundError
from storage.disk.documents import parse_json, read_json, to_json, write_json


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
