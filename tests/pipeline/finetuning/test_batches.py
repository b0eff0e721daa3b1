from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageEnhance

from pipeline.decision.schedule import Augmentation, plan_finetuning
from pipeline.errors import DataError
from pipeline.finetuning.batches import Batches, Undecoded, augment_picture, decode_into, recoloured
from pipeline.fingerprint import digest
from tests.factories import a_photo, a_recipe, an_image, encoded

SIZE, NUM = 24, 22
STILL = Augmentation(turn=0.0, shift=0.0, scale=1.0, colour=0.0, mirror=False)


@pytest.fixture(scope="module")
def pictures():
    return np.stack([np.asarray(a_photo(number, (SIZE, SIZE))) for number in range(NUM)])


def a_schedule(augmentation=STILL, **changed):
    return replace(plan_finetuning(NUM), batch_size=4, augmentation=augmentation, **changed)


def batches_of(pictures, schedule=None, labels=None):
    return Batches(pictures, labels or [place % 3 for place in range(NUM)], 3, schedule or a_schedule())


def test_an_epoch_shows_every_picture_at_most_once_with_its_own_label(pictures):
    found = list(batches_of(pictures).of_epoch(0))
    assert len(found) == batches_of(pictures).num_steps == 5
    seen = []
    for pixels, targets, weights in found:
        assert (pixels.shape, pixels.dtype) == ((4, SIZE, SIZE, 3), np.float32)
        assert weights.tolist() == [1.0] * 4
        for row, target in zip(pixels, targets, strict=True):
            place = next(number for number in range(NUM) if np.array_equal(row, pictures[number]))
            assert target.argmax() == place % 3
            seen.append(place)
    assert len(set(seen)) == len(seen) == 20


def test_epochs_differ_and_what_is_left_over_comes_in_another_one(pictures):
    first, second = ([pixels for pixels, _, _ in batches_of(pictures).of_epoch(epoch)] for epoch in (0, 1))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))
    shown = {
        row.tobytes() for epoch in range(5) for pixels, _, _ in batches_of(pictures).of_epoch(epoch) for row in pixels
    }
    assert len(shown) == NUM


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(mixup=0.2)], ids=["moved", "mixed"])
def test_from_any_step_on_an_epoch_is_the_same(pictures, augmentation):
    schedule = a_schedule(augmentation)
    whole = list(batches_of(pictures, schedule).of_epoch(3))
    rest = list(batches_of(pictures, schedule).of_epoch(3, first_step=2))
    assert len(rest) == 3
    for mine, wanted in zip(rest, whole[2:], strict=True):
        for array, other in zip(mine, wanted, strict=True):
            assert np.array_equal(array, other)


def test_another_seed_is_another_training(pictures):
    one, other = (next(batches_of(pictures, a_schedule(seed=seed)).of_epoch(0))[0] for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_mixing_adds_pictures_and_labels_in_the_same_shares(pictures):
    schedule = a_schedule(replace(STILL, mixup=1.0))
    pixels, targets, _ = next(batches_of(pictures, schedule).of_epoch(0))
    plain, labels, _ = next(batches_of(pictures).of_epoch(0))
    assert targets.sum(axis=1) == pytest.approx(1)
    share = next(value for value in np.unique(targets.round(6)) if value > 0)
    assert 0 < share <= 1
    assert pixels.mean() == pytest.approx(plain.mean(), rel=1e-3)  # a permutation of the same pictures
    assert targets.sum(axis=0) == pytest.approx(labels.sum(axis=0), abs=1e-5)


def test_pictures_of_rare_classes_weigh_more(pictures):
    labels = [0] * 18 + [1] * 4
    weights = {}
    for _, targets, found in Batches(pictures, labels, 2, a_schedule()).of_epoch(0):
        weights |= dict(zip(targets.argmax(axis=1).tolist(), found.tolist(), strict=True))
    assert weights[1] > 1 > weights[0]


def test_without_ranges_a_picture_stays_as_it_is(pictures):
    assert np.array_equal(augment_picture(pictures[0], STILL, np.random.default_rng(0)), pictures[0])


def test_half_of_the_pictures_are_mirrored(pictures):
    ranges = replace(STILL, mirror=True)
    rng = np.random.default_rng(0)
    found = [augment_picture(pictures[0], ranges, rng) for _ in range(200)]
    mirrored = sum(np.array_equal(picture, pictures[0][:, ::-1]) for picture in found)
    plain = sum(np.array_equal(picture, pictures[0]) for picture in found)
    assert mirrored + plain == 200
    assert 70 < mirrored < 130


@pytest.mark.parametrize("changed", [{"turn": 20.0}, {"shift": 0.2}, {"scale": 1.3}, {"colour": 0.4}])
def test_every_range_changes_pictures(pictures, changed):
    found = augment_picture(pictures[0], replace(STILL, **changed), np.random.default_rng(1))
    assert np.abs(found - pictures[0]).mean() > 0.5
    assert found.min() >= 0
    assert found.max() <= 255


def test_colours_change_as_pillows_own_enhancers_change_them(pictures):
    image = Pillow.fromarray(pictures[3])
    for place, enhancer in enumerate((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)):
        factors = [1.0, 1.0, 1.0]
        factors[place] = 0.8
        found = np.asarray(recoloured(image, *factors), float)
        assert np.abs(found - np.asarray(enhancer(image).enhance(0.8), float)).max() <= 3  # means are rounded there
    assert np.array_equal(recoloured(image, 1.0, 1.0, 1.0), image)


@pytest.fixture(scope="module")
def files():
    return [encoded(a_photo(number, (40, 30))) for number in range(3)]


def images_of(files):
    return [an_image(place, digest=digest(data), path=str(place)) for place, data in enumerate(files)]


def test_decoding_ahead_and_on_demand_give_the_same_bytes(files):
    images, recipe = images_of(files), a_recipe()
    read = lambda image: files[int(image.path)]  # noqa: E731
    pixels = np.zeros((3, recipe.size, recipe.size, 3), np.uint8)
    decode_into(pixels, images, read, recipe)
    asked = Undecoded(images, read, recipe)
    assert len(asked) == 3
    for place in range(3):
        assert np.array_equal(pixels[place], asked[place])
    exact = np.asarray(Pillow.fromarray(pixels[0]).convert("L"), float).std()
    assert exact > 0


def test_a_picture_that_changed_since_stops_the_training_with_its_name(files):
    images, recipe = images_of(files), a_recipe()
    other = encoded(a_photo(99, (40, 30)))
    with pytest.raises(DataError, match=r"1: changed while.*onboard the folder again"):
        decode_into(
            np.zeros((3, recipe.size, recipe.size, 3), np.uint8),
            images,
            lambda image: other if image.path == "1" else files[int(image.path)],
            recipe,
        )
    with pytest.raises(DataError, match="onboard the folder again"):
        Undecoded(images, lambda image: other, recipe)[0]
