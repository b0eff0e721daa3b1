from __future__ import annotations

import hashlib
from dataclasses import replace

import h5py
import numpy as np
import pytest

from pipeline.errors import ConflictError, DamagedError, DataError, NotFoundError, UnknownNameError
from pipeline.types import Image
from storage.features import packs
from storage.features.packs import open_pack, write_pack
from storage.features.writer import FeatureWriter

NUMBERS = [7, 2, 9, 0, 4]
CLASSES = ("déjà vu", "plain")


@pytest.fixture
def store(workspace, space, block_of):
    """Ten images in two shards."""
    store = FeatureWriter(workspace, space)
    for numbers in (range(6), range(6, 10)):
        store.append(block_of(numbers))
        store.commit()
    return store


@pytest.fixture
def images_of(digests_of):
    def images(numbers):
        splits = ("train", "val", "test")
        return [
            Image(digest, f"folder/\udcff{number}.png", (number % 2,), splits[number % 3])
            for number, digest in zip(numbers, digests_of(numbers), strict=True)
        ]

    return images


@pytest.fixture
def pack_file(store, images_of, tmp_path):
    path = tmp_path / "features.h5"
    write_pack(store, images_of(NUMBERS), CLASSES, path)
    return path


@pytest.fixture
def in_small_blocks(monkeypatch):
    """Several blocks, without thousands of rows."""
    monkeypatch.setattr(packs, "BLOCK_ROWS", 2)
    monkeypatch.setattr(packs, "BLOCK_BYTES", 100)


def test_a_pack_explains_itself_to_plain_h5py(in_small_blocks, pack_file, space, block_of):
    block = block_of(NUMBERS)
    with h5py.File(pack_file) as file:
        assert file.attrs["format"] == b"headstart.pack"
        assert file.attrs["version"] == 1
        assert file.attrs["space"] == space.id.encode()
        assert hashlib.sha256(file.attrs["descriptor"]).hexdigest()[:16] == space.id
        assert [key.tobytes() for key in file["key"][()]] == list(block.digests)
        assert list(file["features"]) == ["stage5_grid", "top"]
        for tap in space.taps:
            assert file["features"][tap.name].dtype == np.float16
            np.testing.assert_array_equal(file["features"][tap.name][()], block.taps[tap.name])
        assert file["label"][()].tolist() == [1, 0, 1, 0, 0]
        assert file["split"][()].tolist() == [b"val", b"test", b"train", b"train", b"val"]
        assert file["path"][()].tolist() == [b"folder/\xff%d.png" % number for number in NUMBERS]
        assert [name.decode() for name in file["classes"][()]] == list(CLASSES)


def test_a_pack_is_mapped_as_it_was_written(in_small_blocks, pack_file, space, block_of):
    pack, block = open_pack(pack_file), block_of(NUMBERS)
    pack.check()
    assert pack.space_id == space.id
    assert pack.classes == CLASSES
    assert [key.tobytes() for key in pack.keys] == list(block.digests)
    for tap in space.taps:
        assert pack.features[tap.name].dtype == np.float16
        np.testing.assert_array_equal(pack.features[tap.name], block.taps[tap.name])
    assert pack.labels.tolist() == [1, 0, 1, 0, 0]
    assert pack.splits.tolist() == [b"val", b"test", b"train", b"train", b"val"]
    assert pack.paths[0] == b"folder/\xff7.png"


def test_labels_that_do_not_exclude_each_other_are_a_row_of_marks_a_picture(store, images_of, tmp_path):
    sets = [(0, 1), (), (1,), (0,), ()]
    images = [replace(image, labels=labels) for image, labels in zip(images_of(NUMBERS), sets, strict=True)]
    write_pack(store, images, CLASSES, tmp_path / "several.h5", exclusive=False)
    pack = open_pack(tmp_path / "several.h5")
    pack.check()
    assert pack.labels.tolist() == [[1, 1], [0, 0], [0, 1], [1, 0], [0, 0]]


def test_a_pack_cannot_be_changed_through_its_arrays(pack_file):
    with pytest.raises(ValueError, match="read-only"):
        open_pack(pack_file).features["top"][0] = 0


def test_equal_datasets_give_equal_packs(store, images_of, pack_file):
    again = pack_file.with_name("again.h5")
    write_pack(store, images_of(NUMBERS), CLASSES, again)
    assert again.read_bytes() == pack_file.read_bytes()


def test_a_pack_of_some_taps_holds_no_others(store, images_of, tmp_path, block_of):
    write_pack(store, images_of(NUMBERS), CLASSES, tmp_path / "top.h5", taps=["top"])
    pack = open_pack(tmp_path / "top.h5")
    assert list(pack.features) == ["top"]
    np.testing.assert_array_equal(pack.features["top"], block_of(NUMBERS).taps["top"])


def test_what_cannot_be_packed_leaves_no_file(store, images_of, tmp_path):
    path = tmp_path / "none" / "features.h5"
    with pytest.raises(NotFoundError, match="1 of 2 images"):
        write_pack(store, images_of([1, 11]), CLASSES, path)
    with pytest.raises(DataError, match="nothing to pack"):
        write_pack(store, [], CLASSES, path)
    with pytest.raises(UnknownNameError, match="Did you mean 'top'"):
        write_pack(store, images_of([1]), CLASSES, path, taps=["topp"])
    assert not list(tmp_path.glob("none/*"))


def test_damage_met_while_packing_leaves_the_old_file(store, images_of, pack_file, workspace, space):
    before = pack_file.read_bytes()
    path = max((path for _, path in workspace.shards(space.id)), key=lambda path: path.stat().st_size)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(DamagedError, match="6 images will be recomputed"):
        write_pack(store, images_of(range(10)), CLASSES, pack_file)
    assert pack_file.read_bytes() == before
    assert [kept.name for kept in pack_file.parent.glob("*.part")] == []


def test_every_flipped_bit_of_a_pack_is_found(pack_file):
    data = pack_file.read_bytes()
    for place in range(0, len(data), 23):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        pack_file.write_bytes(flipped)
        with pytest.raises(ConflictError):
            open_pack(pack_file).check()


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.999])
def test_a_pack_cut_short_is_refused_when_opened(pack_file, share):
    data = pack_file.read_bytes()
    pack_file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DamagedError):
        open_pack(pack_file)


def link_elsewhere(file):
    del file["label"]
    file["label"] = h5py.ExternalLink("other.h5", "/label")


def compress(file):
    rows = file["features/top"][()]
    del file["features/top"]
    file.create_dataset("features/top", data=rows, chunks=True, compression="gzip")


def lose_a_row(file):
    rows = file["label"][()]
    del file["label"]
    file["label"] = rows[:-1]


def keep_a_group_for_a_tap(file):
    del file["features/top"]
    file.create_group("features/top")


@pytest.mark.parametrize("change", [link_elsewhere, compress, lose_a_row, keep_a_group_for_a_tap])
def test_a_pack_that_is_not_plain_bytes_is_refused(pack_file, change):
    with h5py.File(pack_file, "a") as file:
        change(file)
    with pytest.raises(DamagedError):
        open_pack(pack_file)


def test_a_pack_of_another_version_is_refused(pack_file):
    with h5py.File(pack_file, "a") as file:
        file.attrs["version"] = 2
    with pytest.raises(ConflictError, match=r"version 2; this headstart reads version 1"):
        open_pack(pack_file)


def test_a_pack_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ConflictError, match=r"Cannot open .*absent\.h5: No such file"):
        open_pack(tmp_path / "absent.h5")
