from dataclasses import replace

import pytest

from pipeline.versions.changes import plan_refresh
from tests import factories


def manifest(num=200, **changed):
    """Cats and dogs in turn, all of them trained on."""
    images = tuple(factories.an_image(number, label=number % 2) for number in range(num))
    return factories.a_manifest(images=images, **changed)


def with_label(image, label):
    return replace(image, labels=(label,))


def test_nothing_changed_and_the_head_stays():
    plan = plan_refresh(manifest(), manifest())
    assert (plan.num_added, plan.num_removed, plan.num_relabelled) == (0, 0, 0)
    assert not plan.retrain
    assert plan.reasons == ("No training picture changed: the head stays.",)


@pytest.mark.parametrize(("num_added", "retrain"), [(9, False), (10, True)])
def test_five_percent_more_pictures_are_enough(num_added, retrain):
    plan = plan_refresh(manifest(), manifest(200 + num_added))
    assert (plan.num_added, plan.num_removed, plan.retrain) == (num_added, 0, retrain)
    assert f"{num_added / 200:.1%} of the 200 training pictures ({num_added} added" in plan.reasons[0]


def test_added_removed_and_relabelled_pictures_add_up():
    before = manifest()
    images = before.images[4:]
    now = replace(before, images=(*images, *(factories.an_image(number) for number in range(900, 905))))
    assert not plan_refresh(before, now).retrain
    now = replace(now, images=(with_label(images[0], 1 - images[0].label), *now.images[1:]))
    plan = plan_refresh(before, now)
    assert (plan.num_added, plan.num_removed, plan.num_relabelled) == (5, 4, 1)
    assert plan.retrain


@pytest.mark.parametrize(("num_relabelled", "retrain"), [(1, False), (2, True)])
def test_one_percent_of_other_labels_is_enough(num_relabelled, retrain):
    before = manifest()
    images = before.images
    changed = [with_label(image, 1 - image.label) for image in images[:num_relabelled]]
    plan = plan_refresh(before, replace(before, images=(*changed, *images[num_relabelled:])))
    assert (plan.num_relabelled, plan.retrain) == (num_relabelled, retrain)
    assert ("another label" in plan.reasons[0]) == retrain


def test_a_class_that_comes_or_goes_is_always_enough():
    before = manifest()
    more = replace(before, classes=("birds", "cats", "dogs"), images=_moved(before.images, 1))
    came, went = plan_refresh(before, more), plan_refresh(more, before)
    assert (came.classes_added, came.classes_gone, came.retrain) == (("birds",), (), True)
    assert (went.classes_added, went.classes_gone, went.retrain) == ((), ("birds",), True)
    assert came.num_relabelled == 0  # names count, and not the indices that moved
    assert came.reasons == ("Classes came: birds.",)


def _moved(images, by):
    return tuple(with_label(image, image.label + by) for image in images)


def test_many_new_classes_are_counted_and_not_all_named():
    names = tuple(f"class{number}" for number in range(9))
    plan = plan_refresh(manifest(), manifest(classes=("cats", "dogs", *names)))
    assert plan.reasons == ("Classes came: class0, class1, class2, class3, class4 and 4 more.",)


def test_what_happens_in_the_test_split_changes_no_head():
    before = manifest()
    tested = tuple(factories.an_image(number, split="test") for number in range(500, 600))
    plan = plan_refresh(before, replace(before, images=(*before.images, *tested)))
    assert (plan.num_added, plan.retrain) == (0, False)


def test_labels_that_do_not_exclude_each_other_are_compared_as_sets():
    before = replace(manifest(), exclusive=False)
    changed = tuple(replace(image, labels=(0, 1)) for image in before.images[:5])
    plan = plan_refresh(before, replace(before, images=(*changed, *before.images[5:])))
    assert (plan.num_relabelled, plan.retrain) == (5, True)
