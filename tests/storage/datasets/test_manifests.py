from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import pytest

from pipeline import types
from pipeline.errors import ConflictError, DamagedError, NotFoundError
from pipeline.fingerprint import fingerprint
from pipeline.types import Image, Manifest, Rejected
from storage.datasets import manifests
from storage.datasets.manifests import (
    FORMAT,
    VERSION,
    DatasetRef,
    check_manifest,
    find_dataset,
    list_datasets,
    read_manifest,
    write_manifest,
)
from storage.disk.documents import sealed
from tests.factories import rewrite_document


@pytest.fixture
def manifest(digests_of):
    one, two, three = digests_of(range(3))
    return Manifest(
        dataset="pets",
        root=os.fsdecode(b"/data/p\xff"),
        classes=("cats", os.fsdecode(b"dogs \xfe")),
        images=(
            Image(one, "cats/a.jpg", (0,), "train"),
            Image(two, os.fsdecode(b"dogs/\xff\n.jpg"), (1,), "test"),
            Image(three, "dogs/z.jpg", (1,), "train"),
        ),
        rejected=(Rejected("cats/x.txt", "no picture"),),
        num_files=5,
        num_duplicates=1,
        notes=("a note",),
    )


def test_a_manifest_comes_back_as_it_was(workspace, manifest):
    ref = write_manifest(workspace, manifest)
    assert read_manifest(workspace, "pets") == manifest
    assert read_manifest(workspace, "pets", manifest.fingerprint) == manifest
    assert ref == DatasetRef("pets", manifest.root, manifest.fingerprint)
    assert workspace.manifest("pets", manifest.fingerprint).read_bytes().isascii()


def test_the_last_manifest_written_is_current_and_earlier_ones_stay(workspace, manifest):
    grown = replace(manifest, images=manifest.images[:2])
    write_manifest(workspace, manifest)
    write_manifest(workspace, grown)
    assert find_dataset(workspace, "pets").fingerprint == grown.fingerprint
    assert read_manifest(workspace, "pets") == grown
    assert read_manifest(workspace, "pets", manifest.fingerprint) == manifest


def test_a_name_stands_for_one_folder(workspace, manifest):
    write_manifest(workspace, manifest)
    moved = replace(manifest, root="/elsewhere")
    with pytest.raises(ConflictError, match=r"'pets' is already .*this is /elsewhere.*--name"):
        write_manifest(workspace, moved)
    assert find_dataset(workspace, "pets").root == manifest.root
    write_manifest(workspace, moved, rebind=True)
    assert read_manifest(workspace, "pets").root == "/elsewhere"


def test_datasets_are_listed_by_name(workspace, manifest):
    assert list_datasets(workspace) == []
    for name in ("zoo", "pets"):
        write_manifest(workspace, replace(manifest, dataset=name))
    assert [ref.name for ref in list_datasets(workspace)] == ["pets", "zoo"]


def test_an_unknown_dataset_is_not_found(workspace, manifest):
    assert find_dataset(workspace, "pets") is None
    write_manifest(workspace, manifest)
    with pytest.raises(NotFoundError, match=r"no dataset 'cars'.*pets"):
        read_manifest(workspace, "cars")
    with pytest.raises(NotFoundError, match="no manifest 0123"):
        read_manifest(workspace, "pets", "0123")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-60],
        lambda data: data.replace(b"train", b"tests", 1),
        lambda data: data + data.splitlines(True)[-1],
        lambda data: b"".join(data.splitlines(True)[:-1]),
        lambda data: data.replace(b'"classes"', b'"klasses"'),
        lambda data: b"",
    ],
)
def test_a_manifest_that_changed_is_refused(workspace, manifest, damage):
    path = workspace.manifest("pets", write_manifest(workspace, manifest).fingerprint)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedError, match=re.escape(str(path))):
        read_manifest(workspace, "pets")


def test_a_manifest_of_another_version_is_refused(workspace, manifest):
    path = workspace.manifest("pets", write_manifest(workspace, manifest).fingerprint)
    rewrite_document(path, version=9)
    with pytest.raises(ConflictError, match="version 9"):
        read_manifest(workspace, "pets")


def test_labels_that_do_not_exclude_each_other_come_back_as_they_were(workspace, manifest):
    sets = ((0, 1), (), (1,))
    images = tuple(replace(image, labels=labels) for image, labels in zip(manifest.images, sets, strict=True))
    several = replace(manifest, images=images, exclusive=False)
    write_manifest(workspace, several)
    assert read_manifest(workspace, "pets") == several


def test_a_manifest_of_a_version_that_knew_one_label_only_is_read(workspace, manifest):
    write_manifest(workspace, manifest)
    path = workspace.manifest("pets", manifest.fingerprint)
    head, _, body = path.read_bytes().partition(b"\n")
    header = json.loads(head)
    for name in ("exclusive", "checksum", "format", "version"):
        del header[name]
    path.write_bytes(json.dumps(sealed(header, FORMAT, VERSION)).encode() + b"\n" + body)
    assert read_manifest(workspace, "pets") == manifest


def test_a_manifest_is_parsed_once_and_read_again_when_its_file_changes(workspace, manifest, monkeypatch):
    write_manifest(workspace, manifest)
    read = []
    monkeypatch.setattr(manifests, "check_manifest", lambda *asked: (read.append(asked), check_manifest(*asked))[1])
    first = read_manifest(workspace, "pets")
    assert read_manifest(workspace, "pets", manifest.fingerprint) is first
    assert len(read) == 1
    path = workspace.manifest("pets", manifest.fingerprint)
    data = path.read_bytes()
    path.write_bytes(data[:-2] + b"x\n")
    with pytest.raises(DamagedError):
        read_manifest(workspace, "pets")
    path.write_bytes(data)
    assert read_manifest(workspace, "pets") == first
    path.unlink()
    with pytest.raises(NotFoundError, match="has no manifest"):
        read_manifest(workspace, "pets")


def test_what_is_damaged_after_it_was_read_is_found_by_a_check(workspace, manifest):
    """Even if size and times of the file are the same."""
    write_manifest(workspace, manifest)
    path = workspace.manifest("pets", manifest.fingerprint)
    known, before = read_manifest(workspace, "pets"), path.stat()
    data = path.read_bytes()
    path.write_bytes(data.replace(b"train", b"trian", 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DamagedError):
        check_manifest(path, manifest.fingerprint)
    assert known == manifest


def test_a_fingerprint_is_computed_once(manifest, monkeypatch):
    computed = []
    monkeypatch.setattr(types, "fingerprint", lambda value: (computed.append(value), fingerprint(value))[1])
    assert manifest.fingerprint == manifest.fingerprint
    assert len(computed) == 1
