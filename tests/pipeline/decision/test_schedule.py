import pytest

from pipeline.decision.schedule import class_weights, norm_momentum, plan_finetuning, plan_scratch


def test_more_pictures_get_fewer_epochs_and_are_mixed():
    few, many, most = (plan_finetuning(number) for number in (5_000, 50_000, 1_000_000))
    assert few.epochs > many.epochs > most.epochs
    assert (few.augmentation.mixup, many.augmentation.mixup) == (0.0, 0.1)


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


def test_a_class_without_pictures_weighs_nothing():
    assert class_weights([90, 10, 0])[2] == 0.0
    assert class_weights([0, 0]) == [1.0, 1.0]
