from __future__ import annotations

import os
import socket

import pytest

from pipeline.errors import DataError, NotFoundError
from storage.datasets.folder import list_dataset


@pytest.fixture
def tree(tmp_path):
    """Make files at the given paths; a path that ends in "/" is an empty folder."""

    def make(*paths):
        for path in paths:
            place = os.path.join(os.fsencode(tmp_path), os.fsencode(path))
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if not place.endswith(b"/"):
                with open(place, "wb") as file:
                    file.write(b"content")
        return tmp_path

    return make


def rows(listing):
    return [(entry.path, entry.split, entry.label) for entry in listing.files]


def test_a_folder_per_class_is_listed_in_order(tree):
    listing = list_dataset(tree("dogs/b.jpg", "cats/z.jpg", "cats/a.jpg"))
    assert rows(listing) == [
        ("cats/a.jpg", None, "cats"),
        ("cats/z.jpg", None, "cats"),
        ("dogs/b.jpg", None, "dogs"),
    ]
    assert listing.rejected == []
    assert listing.notes == []


def test_size_and_time_are_those_of_the_file(tree):
    root = tree("a/x.jpg", "b/x.jpg")
    os.utime(root / "a" / "x.jpg", ns=(0, 123_456_789))
    entry = list_dataset(root).files[0]
    assert (entry.size_bytes, entry.mtime_ns) == (7, 123_456_789)


def test_files_far_below_a_class_folder_belong_to_it(tree):
    assert rows(list_dataset(tree("a/one/two/x.jpg", "b/x.jpg")))[0] == ("a/one/two/x.jpg", None, "a")


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Training", "Validation", "TESTING"), ("TRAIN", "valid", "test")],
)
def test_split_folders_are_known_by_many_names(tree, train, val, test):
    listing = list_dataset(tree(*(f"{split}/{label}/x" for split in (train, val, test) for label in "ab")))
    assert {entry.path.split("/")[0]: entry.split for entry in listing.files} == {
        train: "train",
        val: "val",
        test: "test",
    }
    assert {entry.label for entry in listing.files} == {"a", "b"}


def test_split_names_among_other_folders_are_classes(tree):
    listing = list_dataset(tree("train/x.jpg", "test/x.jpg", "plane/x.jpg"))
    assert {(entry.split, entry.label) for entry in listing.files} == {
        (None, "train"),
        (None, "test"),
        (None, "plane"),
    }


def test_test_and_val_without_train_are_classes(tree):
    assert {entry.label for entry in list_dataset(tree("val/x.jpg", "test/x.jpg")).files} == {"val", "test"}


def test_what_systems_leave_behind_is_skipped_silently(tree):
    listing = list_dataset(
        tree("a/x", "b/x", ".git/x", "__MACOSX/x", "a/.DS_Store", "a/Thumbs.db", "a/desktop.ini", "a/._x")
    )
    assert [entry.path for entry in listing.files] == ["a/x", "b/x"]
    assert listing.rejected == []
    assert listing.notes == []


def test_pipes_and_sockets_are_rejected_unopened(tree):
    root = tree("a/x", "b/x")
    os.mkfifo(root / "a" / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(root / "a")  # names of sockets are short
        try:
            made.bind("socket.jpg")
        finally:
            os.chdir(here)
    listing = list_dataset(root)
    assert [(item.path, item.reason) for item in listing.rejected] == [
        ("a/pipe.jpg", "not a file but a pipe"),
        ("a/socket.jpg", "not a file but a socket"),
    ]


def test_links_to_files_and_folders_are_followed(tree, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "y.jpg").write_bytes(b"")
    root = tree("a/x.jpg", "b/x.jpg")
    (root / "a" / "file.jpg").symlink_to(outside / "y.jpg")
    (root / "a" / "folder").symlink_to(outside)
    (root / "c").symlink_to(outside)
    assert [entry.path for entry in list_dataset(root).files] == [
        "a/file.jpg",
        "a/folder/y.jpg",
        "a/x.jpg",
        "b/x.jpg",
        "c/y.jpg",
    ]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../train"])
def test_a_loop_of_links_ends(tree, target):
    root = tree("train/a/x.jpg", "train/b/x.jpg")
    (root / "train" / "a" / "loop").symlink_to(target)
    listing = list_dataset(root)
    assert [entry.path for entry in listing.files] == ["train/a/x.jpg", "train/b/x.jpg"]
    assert [item.path for item in listing.rejected] == ["train/a/loop"]


def test_broken_links_are_rejected(tree):
    root = tree("a/x", "b/x")
    (root / "a" / "dangling").symlink_to("nowhere")
    (root / "a" / "itself").symlink_to("itself")
    assert [(item.path, item.reason) for item in list_dataset(root).rejected] == [
        ("a/dangling", "broken link"),
        ("a/itself", "broken link"),
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_rejected(tree):
    root = tree("a/x", "b/x", "c/x")
    (root / "c").chmod(0)
    try:
        assert [item.path for item in list_dataset(root).rejected] == ["c"]
    finally:
        (root / "c").chmod(0o755)


def test_names_that_are_not_utf8_are_kept(tree):
    listing = list_dataset(tree(b"caf\xff/x-\xfe.jpg", "b/x.jpg"))
    assert os.fsencode(listing.files[1].path) == b"caf\xff/x-\xfe.jpg"
    assert os.fsencode(listing.files[1].label) == b"caf\xff"


def test_stray_files_and_empty_folders_are_noted(tree):
    listing = list_dataset(tree("a/x", "b/x", "README.md", "labels.csv", "empty/", *(f"e{n}/" for n in range(6))))
    assert listing.notes == [
        "2 files are left out, outside any class folder.",
        "Class folders without files: 'e0', 'e1', 'e2', 'e3', 'e4' and 2 more.",
    ]


def test_classes_that_look_alike_are_noted(tree):
    listing = list_dataset(tree("Cat/x", "cat/x", "dog/x"))
    assert listing.notes == ["Classes whose names differ only in case or spelling: 'Cat', 'cat'."]


def test_classes_that_cannot_be_learnt_are_noted(tree):
    listing = list_dataset(tree("train/a/x", "train/b/x", "val/a/x", "val/c/x", "test/d/x"))
    assert listing.notes == [
        "Classes in test that are not in train: 'd'.",
        "Classes in val that are not in train: 'c'.",
    ]


def test_a_missing_folder_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match="There is no folder"):
        list_dataset(tmp_path / "absent")


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["a.jpg", "b.jpg"], r"found 2 files but no class folders; wanted .*/class/image.jpg"),
        ([".hidden"], "found no files to train on; wanted"),
        (["a/", "b/"], "found no files to train on"),
        (["a/x", "b/"], "only one class with training files: 'a'; a classifier needs at least two"),
        (["train/a/x", "test/b/x"], "only one class with training files: 'a'"),
        (["train/", "test/a/x", "test/b/x"], "found no files to train on"),
        (["train/x.jpg", "train/y.jpg", "test/z.jpg"], "found 3 files but no class folders"),
    ],
)
def test_a_folder_that_cannot_be_learnt_from_is_refused(tree, paths, words):
    with pytest.raises(DataError, match=words):
        list_dataset(tree(*paths))


def test_a_file_is_no_dataset(tree):
    with pytest.raises(DataError, match="is no folder"):
        list_dataset(tree("file.jpg") / "file.jpg")


def test_a_link_to_another_class_folder_is_no_class_of_its_own(tmp_path):
    for label in ("cats", "dogs"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.jpg").write_bytes(b"x")
    (tmp_path / "all_dogs").symlink_to(tmp_path / "dogs")  # sorts before the folder it names

    listing = list_dataset(tmp_path)

    assert [entry.path for entry in listing.files] == ["cats/1.jpg", "dogs/1.jpg"]
    assert [(item.path, item.reason) for item in listing.rejected] == [("all_dogs", "link to class folder 'dogs'")]
