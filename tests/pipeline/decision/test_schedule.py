from dataclasses import replace

import pytest

from pipeline.decision.schedule import (
    Augmentation,
    Schedule,
    class_weights,
    norm_momentum,
    plan_finetuning,
    plan_scratch,
)


def test_more_pictures_get_fewer_epochs_and_are_mixed():
    few, many, most = (plan_finetuning(number) for number in (5_000, 50_000, 1_000_000))
    assert few.epochs > many.epochs > most.epochs
    assert (few.augmentation.mixup, many.augmentation.mixup) == (0.0, 0.1)


FINETUNED = Schedule(
    epochs=12,
    batch_size=32,
    learning_rate=5e-4,
    warmup=0.1,
    weight_decay=0.05,
    label_smoothing=0.1,
    frozen_statistics=True,
    patience=3,
    augmentation=Augmentation(turn=10.0, shift=0.1, scale=1.15, colour=0.2, mirror=True, mixup=0.0),
)
MIXED = replace(FINETUNED.augmentation, mixup=0.1)
FROM_SCRATCH = {"learning_rate": 1e-3, "frozen_statistics": False, "patience": 10}


@pytest.mark.parametrize(
    ("num_train", "finetuned", "scratch"),
    [
        (100, {"batch_size": 10}, {"epochs": 60}),
        (19_999, {}, {"epochs": 60}),
        (20_000, {"epochs": 10, "augmentation": MIXED}, {"epochs": 60}),
        (499_999, {"epochs": 10, "augmentation": MIXED}, {"epochs": 60}),
        (500_000, {"epochs": 4, "augmentation": MIXED}, {"epochs": 20}),
    ],
)
def test_the_schedules_are_those_of_the_table(num_train, finetuned, scratch):
    wanted = replace(FINETUNED, **finetuned)
    assert plan_finetuning(num_train) == wanted
    assert plan_scratch(num_train) == replace(wanted, **FROM_SCRATCH, **scratch)


@pytest.mark.parametrize(
    ("num_train", "batch_size"), [(1, 1), (5, 2), (16, 8), (80, 8), (90, 9), (319, 31), (320, 32), (10_000, 32)]
)
def test_an_epoch_has_ten_steps_of_at_most_32_pictures_but_no_batch_is_tiny(num_train, batch_size):
    assert plan_finetuning(num_train).batch_size == batch_size


def test_a_limit_of_epochs_is_what_the_schedule_ends_at():
    assert plan_finetuning(5_000, epochs=4).epochs == 4
    assert plan_finetuning(5_000).epochs > 4


@pytest.mark.parametrize("num_train", [2, 9, 40, 100, 319])
def test_few_pictures_still_make_several_steps_an_epoch(num_train):
    batch = plan_finetuning(num_train).batch_size
    assert batch <= num_train
    assert num_train // batch >= min(10, num_train // 8)


def test_random_weights_are_trained_longer_and_with_statistics_of_their_own():
    pretrained, scratch = plan_finetuning(10_000), plan_scratch(10_000)
    assert scratch.epochs > pretrained.epochs
    assert pretrained.frozen_statistics
    assert not scratch.frozen_statistics


def test_norm_momentum_is_that_of_kornblith():
    assert norm_momentum(50) == 0.9
    assert norm_momentum(1000) == pytest.approx(0.99)


def test_even_classes_weigh_the_same_and_a_picture_weighs_one_on_average():
    assert class_weights([70, 50, 60]) == [1.0, 1.0, 1.0]
    weights = class_weights([900, 90, 10])
    assert weights == sorted(weights)
    assert sum(weight * count for weight, count in zip(weights, [900, 90, 10], strict=True)) == pytest.approx(1000)


@pytest.mark.parametrize(("largest", "weighted"), [(149, False), (150, True)])
def test_classes_are_weighted_if_the_largest_has_half_as_many_pictures_again(largest, weighted):
    assert (class_weights([largest, 100]) != [1.0, 1.0]) is weighted


def test_a_class_without_pictures_weighs_nothing():
    assert class_weights([90, 10, 0])[2] == 0.0
    assert class_weights([0, 0]) == [1.0, 1.0]
