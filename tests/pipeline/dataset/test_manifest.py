from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.manifest import build_manifest
from pipeline.dataset.split import position_of, split_of
from pipeline.errors import DataError
from tests.factories import a_digest, a_picture, a_rejected

CATS = [a_picture(f"cats/{number}.png") for number in range(10)]
FINGERPRINT = "33779770aa2db8c1"  # of cats and dogs, by every version so far
DOGS = [a_picture(f"dogs/{number}.png") for number in range(10)]


def build(pictures, **options):
    return build_manifest("pets", "/pictures/pets", pictures, **options)


def given_split(split, paths, **changed):
    return [a_picture(f"{split}/{path}", split=split, **changed) for path in paths]


SPLIT_FOLDERS = [
    *given_split("train", ["cats/1.png", "cats/2.png", "dogs/1.png", "dogs/2.png"]),
    *given_split("test", ["cats/3.png", "dogs/3.png"]),
]
VAL_FOLDERS = [*SPLIT_FOLDERS[:4], *given_split("val", ["cats/3.png", "dogs/3.png"])]


def by_path(manifest):
    return {image.path: image for image in manifest.images}


def test_classes_are_sorted_and_labels_point_into_them():
    manifest = build([a_picture("zebra/1.png"), a_picture("Ant/1.png"), a_picture("ant/1.png"), *CATS])
    assert manifest.classes == ("Ant", "ant", "cats", "zebra")
    assert all(manifest.classes[image.label] == image.path.split("/")[0] for image in manifest.images)


def test_files_with_the_same_bytes_become_one_image_under_the_first_path():
    copies = [a_picture(f"cats/{name}.png", content="cats/3.png") for name in ("z copy", " copy")]
    manifest = build([*CATS, *DOGS, *copies])
    assert (manifest.num_files, manifest.num_duplicates, len(manifest.images)) == (22, 2, 20)
    assert "cats/ copy.png" in by_path(manifest)
    assert not {"cats/3.png", "cats/z copy.png"} & set(by_path(manifest))
    assert manifest.notes == ()


def test_an_image_under_two_labels_is_left_out_and_reported():
    manifest = build([*CATS, *DOGS, a_picture("dogs/cat.png", content="cats/3.png")])
    assert not {"cats/3.png", "dogs/cat.png"} & set(by_path(manifest))
    assert len(manifest.images) == 19
    assert manifest.notes == ("1 picture under two labels, left out: cats/3.png = dogs/cat.png.",)


def test_a_note_names_five_conflicts_and_counts_the_rest():
    manifest = build([*CATS, *DOGS, *(a_picture(f"dogs/c{n}.png", content=f"cats/{n}.png") for n in range(7))])
    (note,) = manifest.notes
    assert note.startswith("7 pictures under two labels")
    assert note.count(" = ") == 5
    assert note.endswith(" and 2 more.")


@given(st.permutations(list(range(7))))
def test_notes_do_not_depend_on_the_order_of_the_files(order):
    conflicts = [a_picture(f"dogs/c{n}.png", content=f"cats/{n}.png") for n in range(7)]
    shuffled = [conflicts[n] for n in order]
    assert build([*CATS, *DOGS, *shuffled]).notes == build([*CATS, *DOGS, *conflicts]).notes


def test_a_class_that_loses_all_its_pictures_to_conflicts_is_no_class():
    manifest = build([*CATS, *DOGS, a_picture("puppies/1.png", content="dogs/1.png")])
    assert manifest.classes == ("cats", "dogs")


def test_a_folder_without_splits_gets_a_test_split_by_content():
    manifest = build([*CATS, *DOGS, *(a_picture(f"dogs/{number}.png") for number in range(10, 100))])
    assert 10 <= len(manifest.of_split("test")) <= 40
    assert not manifest.of_split("val")


def test_a_folder_with_its_own_split_keeps_it():
    manifest = build(SPLIT_FOLDERS)
    assert {image.path: image.split for image in manifest.images} == {
        picture.entry.path: picture.entry.split for picture in SPLIT_FOLDERS
    }


def test_a_folder_with_train_and_val_gets_no_test_split_of_ours():
    manifest = build(VAL_FOLDERS)
    assert {image.split for image in manifest.images} == {"train", "val"}


def test_a_folder_with_only_train_in_it_gets_a_test_split():
    pictures = given_split("train", [f"{name}/{number}.png" for name in ("cats", "dogs") for number in range(30)])
    assert build(pictures).of_split("test")


@pytest.mark.parametrize(
    ("splits", "kept"),
    [
        (("train", "test"), "test"),
        (("test", "train"), "test"),
        (("train", "val"), "val"),
        (("val", "test"), "test"),
        (("train", "val", "test"), "test"),
    ],
)
def test_a_picture_in_several_splits_is_kept_in_the_one_it_would_leak_into(splits, kept):
    leak = [a_picture(f"{split}/cats/leak.png", content="leak", split=split) for split in splits]
    manifest = build([*SPLIT_FOLDERS, *leak])
    assert [image.split for image in manifest.images if image.path.endswith("leak.png")] == [kept]
    assert len(manifest.notes) == 1
    assert manifest.notes[0].startswith("1 picture in more than one split, kept in test (or val) only: ")
    assert all(picture.entry.path in manifest.notes[0] for picture in leak)


def test_a_class_only_in_test_is_left_out_and_reported():
    manifest = build([*SPLIT_FOLDERS, *given_split("test", ["birds/1.png", "birds/2.png"])])
    assert manifest.classes == ("cats", "dogs")
    assert not any("birds" in image.path for image in manifest.images)
    assert manifest.notes == ("Class 'birds' has no training picture: its 2 pictures left out.",)


def test_a_class_only_in_train_stays():
    assert build([*SPLIT_FOLDERS, *given_split("train", ["birds/1.png"])]).classes == ("birds", "cats", "dogs")


@given(st.lists(st.integers(1, 4), min_size=2, max_size=6), st.integers(0, 1000))
def test_every_class_of_a_tiny_dataset_is_trained_and_something_is_tested(sizes, salt):
    pictures = [
        a_picture(f"class{label}/{place}.png", content=(salt, label, place))
        for label, size in enumerate(sizes)
        for place in range(size)
    ]
    manifest = build(pictures)
    assert {image.label for image in manifest.of_split("train")} == set(range(len(sizes)))
    assert len(manifest.images) == sum(sizes)
    if max(sizes) > 1:
        assert manifest.of_split("test")


def test_one_picture_a_class_trains_on_all_and_tests_none():
    manifest = build([a_picture("cats/1.png"), a_picture("dogs/1.png")])
    assert len(manifest.of_split("train")) == 2


def test_one_class_is_an_error_that_names_it():
    with pytest.raises(DataError, match="only class 'cats' can be trained on; a classifier needs at least two"):
        build(CATS)


def test_no_picture_at_all_is_an_error_that_names_a_rejected_file():
    with pytest.raises(DataError, match=r"0 readable pictures no class .*first cats/broken.png: empty file"):
        build([], rejected=[a_rejected()])


def test_two_classes_of_which_one_is_only_in_test_are_too_few():
    with pytest.raises(DataError, match="only class 'cats'"):
        build([*given_split("train", ["cats/1.png"]), *given_split("test", ["dogs/1.png", "cats/2.png"])])


def test_two_classes_with_the_same_pictures_are_too_few():
    with pytest.raises(DataError, match="no class"):
        build([*CATS, *(a_picture(f"dogs/{number}.png", content=f"cats/{number}.png") for number in range(10))])


def test_the_fingerprint_ignores_paths_root_and_name():
    moved = [replace(picture, entry=replace(picture.entry, path=f"new/{picture.entry.path}")) for picture in CATS]
    other = build_manifest("other-name", "/elsewhere", [*DOGS, *moved], [a_rejected()], ["a note"])
    assert other.fingerprint == build([*CATS, *DOGS]).fingerprint


def test_the_fingerprint_sees_contents_labels_classes_and_splits():
    manifests = [
        build([*CATS, *DOGS]),
        build([*CATS[1:], *DOGS]),
        build([*CATS, *DOGS[1:], a_picture("cats/dog.png", content="dogs/0.png")]),
        build([*CATS, *DOGS, a_picture("birds/1.png")]),
        build([*CATS, *(replace(picture, entry=replace(picture.entry, labels=("hounds",))) for picture in DOGS)]),
        build(SPLIT_FOLDERS),
        build([replace(p, digest=q.digest) for p, q in zip(VAL_FOLDERS, SPLIT_FOLDERS, strict=True)]),
    ]
    assert len({manifest.fingerprint for manifest in manifests}) == len(manifests)


def test_rejected_files_and_notes_are_carried_along():
    manifest = build([*CATS, *DOGS], rejected=[a_rejected()], notes=["2 files lie outside any class folder."])
    assert manifest.rejected == (a_rejected(),)
    assert manifest.notes == ("2 files lie outside any class folder.",)


def test_images_are_sorted_by_path():
    paths = [image.path for image in build([*reversed(DOGS), *reversed(CATS)]).images]
    assert paths == sorted(paths)


TAGGED = [a_picture(f"{number}.png", labels=("red", "big")[: number % 3]) for number in range(30)]


def test_a_picture_has_any_number_of_labels_and_none_too():
    manifest = build(TAGGED, exclusive=False)
    assert (manifest.classes, manifest.exclusive) == (("big", "red"), False)
    assert {path: image.labels for path, image in by_path(manifest).items()} == {
        f"{number}.png": ((), (1,), (0, 1))[number % 3] for number in range(30)
    }


def test_one_label_is_enough_to_learn_where_a_picture_may_have_none():
    assert build([a_picture("1.png", labels=("odd",)), a_picture("2.png", labels=())], exclusive=False).classes
    with pytest.raises(DataError, match="needs at least one label"):
        build([a_picture("1.png", labels=()), a_picture("2.png", labels=())], exclusive=False)


def test_equal_bytes_with_different_sets_of_labels_are_left_out():
    copy = a_picture("copy.png", content="2.png", labels=("red",))
    manifest = build([*TAGGED, copy], exclusive=False)
    assert not {"copy.png", "2.png"} & set(by_path(manifest))
    assert manifest.notes == ("1 picture with different labels, left out: 2.png = copy.png.",)


def test_a_label_without_training_pictures_is_taken_off_and_its_pictures_stay():
    pictures = [
        *(replace(picture, entry=replace(picture.entry, split="train")) for picture in TAGGED),
        a_picture("test.png", split="test", labels=("new", "red")),
    ]
    manifest = build(pictures, exclusive=False)
    assert by_path(manifest)["test.png"].labels == (1,)
    assert manifest.notes == ("Class 'new' has no training picture: taken off its 1 picture.",)


def test_every_label_is_trained_on_however_few_its_pictures():
    manifest = build([*TAGGED, *(a_picture(f"rare {n}.png", labels=(f"rare {n}",)) for n in range(9))], exclusive=False)
    assert {label for image in manifest.of_split("train") for label in image.labels} == set(range(11))


def test_labels_that_exclude_each_other_keep_the_fingerprint_they_had():
    assert build([*CATS, *DOGS]).fingerprint == FINGERPRINT
    assert build([*CATS, *DOGS], exclusive=False).fingerprint != FINGERPRINT


def test_the_only_picture_of_a_label_is_never_the_one_to_test_on():
    """All pictures are in train by chance: one goes to test, and no label may lose its last training picture."""
    train = [content for content in range(400) if split_of(a_digest(content)) == "train"]
    for rare in (0, 1, 2):  # wherever it stands in the order that decides
        pictures = [
            a_picture(f"{place}.png", content, labels=("common", "rare") if place == rare else ("common",))
            for place, content in enumerate(sorted(train, key=lambda one: position_of(a_digest(one), "split"))[:3])
        ]
        manifest = build(pictures, exclusive=False)
        assert manifest.classes == ("common", "rare")
        assert [image.split for image in manifest.images].count("test") == 1
        assert by_path(manifest)[f"{rare}.png"].split == "train"


def test_what_is_left_out_for_its_two_labels_is_no_duplicate():
    conflict = [a_picture("cats/odd.png", "odd"), a_picture("dogs/odd.png", "odd")]
    copy = a_picture("cats/copy.png", "cats/0.png")
    manifest = build([*CATS, *DOGS, copy, *conflict])
    assert manifest.num_files - len(manifest.images) == 3  # the copy, and both files of the conflict
    assert manifest.num_duplicates == 2  # bytes that were there already: the copy, and one of the conflict
