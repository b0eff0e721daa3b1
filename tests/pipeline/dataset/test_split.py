import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.manifest import build_manifest
from pipeline.dataset.split import TEST_SHARE, position_of, sample_images, split_of, split_validation
from tests import factories

DIGESTS = st.binary(min_size=32, max_size=32)


@given(DIGESTS, st.text(max_size=5))
def test_every_content_has_a_place_below_one(digest, salt):
    assert 0.0 <= position_of(digest, salt) < 1.0


def test_the_test_share_is_about_a_fifth():
    splits = [split_of(factories.a_digest(number)) for number in range(5000)]
    # four standard deviations of a binomial: one false alarm in 16,000 other choices of digests
    assert abs(splits.count("test") / 5000 - TEST_SHARE) < 4 * (TEST_SHARE * (1 - TEST_SHARE) / 5000) ** 0.5
    assert set(splits) == {"train", "test"}


def test_split_and_sample_are_independent():
    # else the sample that similarity is measured on would be all test or all train
    images = [factories.an_image(number) for number in range(1000)]
    sample = sample_images(images, 200)
    in_test = sum(split_of(image.digest) == "test" for image in sample)
    assert 20 <= in_test <= 62  # 40 expected, four standard deviations


@given(st.permutations([factories.an_image(number) for number in range(12)]))
def test_a_sample_does_not_depend_on_the_order(images):
    assert sample_images(images, 5) == sample_images(sorted(images, key=lambda image: image.path), 5)


def test_a_sample_does_not_depend_on_names():
    images = [factories.an_image(number) for number in range(12)]
    renamed = [factories.an_image(number, path=f"dogs/{99 - number}.jpg") for number in range(12)]
    assert [i.digest for i in sample_images(images, 5)] == [i.digest for i in sample_images(renamed, 5)]


def test_a_sample_larger_than_the_dataset_is_all_of_it():
    images = [factories.an_image(number) for number in range(3)]
    assert set(sample_images(images, 10)) == set(images)
    assert sample_images([], 10) == ()


@given(st.integers(20, 60), st.integers(1, 60))
def test_growth_moves_no_picture(num_before, num_added):
    names = [f"{'cats' if number % 2 else 'dogs'}/{number}.png" for number in range(num_before + num_added)]
    pictures = [factories.a_picture(name) for name in names]
    before = build_manifest("pets", "/pictures", pictures[:num_before])
    after = {image.digest: image.split for image in build_manifest("pets", "/pictures", pictures).images}
    assert all(after[image.digest] == image.split for image in before.images)


@pytest.mark.parametrize(("num_train", "share"), [(100, 0.2), (2_000, 0.2), (8_000, 0.125), (20_000, 0.1)])
def test_a_fifth_of_few_and_a_tenth_of_many_training_pictures_validate(num_train, share):
    images = [factories.an_image(number) for number in range(num_train)]
    fit, val = split_validation(images, "test")
    assert sorted(fit + val, key=images.index) == images if num_train < 1_000 else len(fit) + len(val) == num_train
    assert abs(len(val) / num_train - share) < (0.09 if num_train == 100 else 0.02)


def test_the_folders_own_val_split_validates_unless_it_is_tested_on():
    train = [factories.an_image(number) for number in range(50)]
    own = [factories.an_image(100 + number, split="val") for number in range(10)]
    tested = [factories.an_image(200 + number, split="test") for number in range(10)]

    assert split_validation([*train, *own, *tested], "test") == (train, own)

    fit, val = split_validation([*train, *own], "val")  # no other test pictures: these may not choose the epoch too
    assert val
    assert not set(own) & {*fit, *val}
