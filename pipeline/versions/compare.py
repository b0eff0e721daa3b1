"""Two versions of a model, compared on pictures that neither has learned from.

Both answer about today's training pictures, each picture as if it had not been seen. Test pictures are not used:
choosing by them would make them training pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.dataset.split import held_out, split_validation
from pipeline.errors import IncomparableError
from pipeline.types import Array, Digest, Head, Image, Manifest
from pipeline.versions.promotion import MARGIN, Names, Promotion, judge_challenger, name_labels

Answers = Mapping[Digest, Names]  # to pictures that a version has not learned from


@dataclass(frozen=True, slots=True)
class Version:
    """A version in a comparison: what it was made from, and what it answers."""

    manifest: Manifest
    images: Sequence[Image]  # of the manifest, those that could be decoded
    is_network: bool  # fine-tuned; else a head on frozen features
    answer: Callable[[Sequence[Image]], Answers]  # pictures that it cannot be asked about are missing


def compare_versions(challenger: Version, serving: Version) -> Promotion:
    """Compare two versions on the challenger's pictures, with the labels that these have there.

    The challenger has to pass on all of them, and on those whose label did not change (`_same_label`). A head may be
    worse than a head within the error. If one of the two is a network, the challenger may not be worse at all, because
    training a network, or giving one up, is expensive.

    Raises
    ------
    IncomparableError
        There is no picture that neither has learned from.
    """
    networks = challenger.is_network or serving.is_network
    margin = 0.0 if networks else MARGIN
    asked = choose_pictures(challenger.images, networks)
    theirs, ours = serving.answer(asked), challenger.answer(asked)
    today = challenger.manifest
    shared = [image for image in _countable(today, asked) if image.digest in ours and image.digest in theirs]
    if not shared:
        raise IncomparableError("There is no picture that neither of them has learned from.")
    outcome = _judge(today, shared, theirs, ours, margin)
    settled = _same_label(today, serving.manifest, shared)
    if outcome.passed and 0 < len(settled) < len(shared):
        unchanged = _judge(today, settled, theirs, ours, margin)
        if not unchanged.passed:
            return replace(unchanged, reason=f"On pictures whose label did not change: {unchanged.reason}")
    return outcome


def choose_pictures(images: Sequence[Image], networks: bool) -> list[Image]:
    """Choose what two versions are asked about: training pictures, for networks also those that validate.

    A val split that has to serve as the test split is left out.
    """
    splits = {"train", "val"} - {held_out(images)[1]} if networks else {"train"}
    return [image for image in images if image.split in splits]


def head_answers(
    head: Head, version: Version, asked: Sequence[Image], score: Callable[[Sequence[Image]], Array]
) -> Answers:
    """Return a head's answers, about each picture that it has learned from with that one left out.

    Parameters
    ----------
    head
        Fitted on the version's training pictures in this process: it has leave-one-out scores.
    score
        Computes the head's probabilities (n, classes) of other pictures.
    """
    if head.held_out is None:
        raise RuntimeError("a head that was fitted has leave-one-out scores")
    classes = version.manifest.classes
    learned = [image.digest for image in version.images if image.split == "train"]
    answers = dict(zip(learned, name_labels(head.held_out, classes, head.thresholds), strict=True))
    if others := [image for image in asked if image.digest not in answers]:
        names = name_labels(score(others), classes, head.thresholds)
        answers |= zip((image.digest for image in others), names, strict=True)
    return answers


def not_trained_on(images: Sequence[Image], asked: Sequence[Image]) -> list[Image]:
    """Return the pictures that a fine-tuned network made from `images` was not trained on."""
    fit_on, _ = split_validation(images, held_out(images)[1])
    seen = {image.digest for image in fit_on}
    return [image for image in asked if image.digest not in seen]


def _judge(today: Manifest, images: Sequence[Image], theirs: Answers, ours: Answers, margin: float) -> Promotion:
    truth = [frozenset(today.classes[label] for label in image.labels) for image in images]
    digests = [image.digest for image in images]
    return judge_challenger(truth, [theirs[one] for one in digests], [ours[one] for one in digests], margin)


def _same_label(today: Manifest, then: Manifest, images: Sequence[Image]) -> list[Image]:
    """Keep the pictures whose label did not change; none if classes came or went, because that changes their meaning.

    If some labels became wrong, both versions are equally wrong about those pictures. Their answers about all other
    pictures show what the wrong labels have done.
    """
    if today.classes != then.classes:
        return []
    before = {image.digest: image.labels for image in then.images}
    return [image for image in images if before.get(image.digest) == image.labels]


def _countable(manifest: Manifest, images: Iterable[Image]) -> list[Image]:
    """Keep pictures whose class has another one: no head can know a class whose only picture is left out."""
    images = list(images)
    if not manifest.exclusive:
        return images
    sizes = Counter(image.label for image in images if image.split == "train")
    return [image for image in images if image.split != "train" or sizes[image.label] > 1]
