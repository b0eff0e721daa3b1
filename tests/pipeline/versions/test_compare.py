from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import IncomparableError
from pipeline.types import Manifest
from pipeline.versions.compare import Version, compare_versions, head_answers, not_trained_on
from tests import factories

CLASSES = ("cats", "dogs")


def a_manifest(**splits):
    """Pictures of two classes in turn: `train=6` are six training pictures."""
    names = [split for split, num in splits.items() for _ in range(num)]
    images = tuple(factories.an_image(n, label=n % 2, split=split) for n, split in enumerate(names))
    return Manifest("pets", "/pets", CLASSES, images)


class Answering:
    """A version that is right about all pictures but some, and remembers what it was asked."""

    def __init__(self, manifest, wrong=(), is_network=False, unknown=()):
        self.wrong, self.unknown, self.asked = set(wrong), set(unknown), []
        self.truth = {image.digest: CLASSES[image.label] for image in manifest.images}
        self.version = Version(manifest, manifest.images, is_network, self.answer)

    def answer(self, asked):
        self.asked = list(asked)
        return {
            image.digest: frozenset({"nothing" if image.digest in self.wrong else self.truth[image.digest]})
            for image in asked
            if image.digest not in self.unknown
        }


def digests(images):
    return [image.digest for image in images]


def test_heads_are_asked_about_training_pictures_alone():
    manifest = a_manifest(train=6, val=4, test=4)
    ours, theirs = Answering(manifest), Answering(manifest)
    assert compare_versions(ours.version, theirs.version).num_images == 6
    assert ours.asked == theirs.asked == list(manifest.of_split("train"))


@pytest.mark.parametrize("network", ["challenger", "serving"])
def test_a_network_is_also_asked_about_pictures_that_validate(network):
    manifest = a_manifest(train=6, val=4, test=4)
    ours = Answering(manifest, is_network=network == "challenger")
    theirs = Answering(manifest, is_network=network == "serving")
    assert compare_versions(ours.version, theirs.version).num_images == 10
    assert {image.split for image in ours.asked} == {"train", "val"}


def test_no_version_is_asked_about_a_val_split_that_serves_as_the_test():
    manifest = a_manifest(train=6, val=4)
    ours, theirs = Answering(manifest), Answering(manifest, is_network=True)
    assert compare_versions(ours.version, theirs.version).num_images == 6
    assert ours.asked == theirs.asked == list(manifest.of_split("train"))


def test_a_class_with_one_training_picture_does_not_count():
    manifest = a_manifest(train=6, test=2)
    lonely = replace(manifest.images[0], labels=(2,))
    manifest = replace(manifest, classes=(*CLASSES, "owls"), images=(lonely, *manifest.images[1:]))
    ours, theirs = Answering(a_manifest(train=6, test=2), [lonely.digest]), Answering(a_manifest(train=6, test=2))
    versions = [replace(one.version, manifest=manifest, images=manifest.images) for one in (ours, theirs)]
    outcome = compare_versions(*versions)
    assert (outcome.num_images, outcome.num_lost, outcome.passed) == (5, 0, True)


def test_a_head_may_be_worse_within_the_error_and_what_meets_a_network_may_not():
    manifest = a_manifest(train=6, test=2)
    wrong = digests(manifest.images[:1])
    head, worse = Answering(manifest).version, Answering(manifest, wrong).version
    assert compare_versions(worse, head).passed
    assert not compare_versions(worse, replace(head, is_network=True)).passed
    assert not compare_versions(replace(worse, is_network=True), head).passed


def test_labels_that_changed_cannot_hide_that_all_others_became_worse():
    then = a_manifest(train=12, test=2)
    relabelled = tuple(replace(image, labels=(1 - image.label,)) for image in then.images[:6])
    now = replace(then, images=relabelled + then.images[6:])
    ours, theirs = Answering(now, digests(now.images[6:9])), Answering(then)
    outcome = compare_versions(ours.version, theirs.version)
    assert (outcome.num_images, outcome.num_lost, outcome.passed) == (6, 3, False)
    assert outcome.reason.startswith("On pictures whose label did not change: ")
    came = replace(now, classes=(*CLASSES, "owls"))  # a class came: labels do not mean the same
    assert compare_versions(replace(ours.version, manifest=came), theirs.version).num_images == 12


def test_versions_that_share_no_picture_cannot_be_compared():
    manifest = a_manifest(train=6, test=2)
    ours = Answering(manifest, unknown=digests(manifest.images[:3]))
    theirs = Answering(manifest, unknown=digests(manifest.images[3:]))
    with pytest.raises(IncomparableError, match="no picture that neither"):
        compare_versions(ours.version, theirs.version)


def test_a_head_answers_about_what_it_has_learned_from_with_that_left_out():
    manifest, new = a_manifest(train=2, test=1), factories.an_image(9)
    scores = np.asarray([[0.1, 0.9], [0.9, 0.1]], "float32")
    head = replace(factories.a_head(num_classes=2), held_out=scores)
    asked = []

    def score(images):
        asked.extend(images)
        return scores[:1]

    version = Answering(manifest).version
    answers = head_answers(head, version, [*manifest.of_split("train"), new], score)
    assert asked == [new]
    first, second = digests(manifest.of_split("train"))
    assert answers == {first: {"dogs"}, second: {"cats"}, new.digest: {"dogs"}}


def test_a_network_is_not_asked_about_what_it_was_trained_on():
    images = a_manifest(train=6, val=4, test=4).images
    assert not_trained_on(images, images) == [image for image in images if image.split != "train"]
