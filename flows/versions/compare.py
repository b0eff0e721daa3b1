"""What a comparison of two saved versions needs: their manifests, features and predictions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flows.features.backbone import get_recorded_backbone
from flows.features.extraction import extract, read_taps
from flows.prediction.files import predict_with
from pipeline.errors import HeadstartError, IncomparableError
from pipeline.images.views import ORIGINAL, view_names
from pipeline.report.record import ModelRef
from pipeline.types import Array, BackboneSpec, Head, Image, Manifest
from pipeline.versions.compare import Answers, Version, compare_versions, head_answers, not_trained_on
from pipeline.versions.promotion import Promotion
from storage.datasets.manifests import DatasetRef, read_manifest
from storage.workspace import Workspace


def compare_saved(workspace: Workspace, challenger: ModelRef, serving: ModelRef, head: Head | None = None) -> Promotion:
    """Compare two saved versions. A head is fitted again from its own manifest, for its leave-one-out scores.

    Parameters
    ----------
    head
        The challenger's, if it was fitted just now.

    Raises
    ------
    IncomparableError
        They cannot be compared; the message says why.
    """
    today = _manifest_of(workspace, challenger)
    return compare_versions(
        _version(workspace, challenger, today, today, head),
        _version(workspace, serving, _manifest_of(workspace, serving), today),
    )


def _version(
    workspace: Workspace, ref: ModelRef, manifest: Manifest, today: Manifest, head: Head | None = None
) -> Version:
    """Describe a version; `today` has the pictures that it will be asked about."""
    left_out = {item.path for item in ref.record.data.rejected}
    images = [image for image in manifest.images if image.path not in left_out]

    def answer(asked: Sequence[Image]) -> Answers:
        if ref.record.is_network:
            return _network_answers(workspace, ref, today, not_trained_on(images, asked))
        return _head_answers(workspace, ref, version, today, asked, head)

    version = Version(manifest, images, ref.record.is_network, answer)
    return version


def _head_answers(
    workspace: Workspace, ref: ModelRef, version: Version, today: Manifest, asked: Sequence[Image], head: Head | None
) -> Answers:
    with incomparable():
        spec = get_recorded_backbone(workspace, ref.record)
    head = head or _fit_again(workspace, ref, version, spec)
    left_out = _without_features(workspace, today, spec, 0)
    known = {image.digest for image in version.images if image.split == "train"}
    used = [part.tap for part in head.taps]

    def score(images: Sequence[Image]) -> Array:
        from pipeline.heads.fit import head_probabilities

        return head_probabilities(head, read_taps(workspace, spec, (ORIGINAL,), images, used))

    readable = [image for image in asked if image.digest in known or image.path not in left_out]
    return head_answers(head, version, readable, score)


def _fit_again(workspace: Workspace, ref: ModelRef, version: Version, spec: BackboneSpec) -> Head:
    from pipeline.heads.fit import fit_head
    from pipeline.heads.labels import truth_of

    num_views = ref.record.features.num_views
    learned = [image for image in version.images if image.split == "train"]
    without = _without_features(workspace, version.manifest, spec, num_views)
    if lost := {image.path for image in learned} & without:
        raise IncomparableError(
            f"The features of {len(lost):,} pictures that version {ref.version} was trained on are gone, "
            "and so are the pictures."
        )
    views = (ORIGINAL, *view_names(num_views))
    taps = [tap for tap in spec.taps if tap.name in ref.record.plan.taps]
    features = read_taps(workspace, spec, views, learned, [tap.name for tap in taps])
    return fit_head(features, taps, truth_of(version.manifest, learned), num_views)


def _network_answers(workspace: Workspace, ref: ModelRef, today: Manifest, images: Sequence[Image]) -> Answers:
    if not images:
        return {}
    rows = predict_with(workspace, ref, [os.path.join(today.root, image.path) for image in images], top=1)
    return {
        image.digest: frozenset(name for name, _ in (row.top if row.labels is None else row.labels))
        for image, row in zip(images, rows, strict=True)
        if row.error is None
    }


def _without_features(workspace: Workspace, manifest: Manifest, spec: BackboneSpec, num_views: int) -> set[str]:
    """Compute the features that the store lacks; returns the paths of pictures that have none even then."""
    dataset = DatasetRef(manifest.dataset, manifest.root, manifest.fingerprint)
    return {item.path for item in extract(workspace, dataset, spec, num_views).rejected}


def _manifest_of(workspace: Workspace, ref: ModelRef) -> Manifest:
    with incomparable(f"The data that version {ref.version} was trained on are not known. "):
        return read_manifest(workspace, ref.name, ref.record.data.fingerprint)


@contextmanager
def incomparable(why: str = "") -> Iterator[None]:
    """Turn an error of headstart into the reason why two versions cannot be compared."""
    try:
        yield
    except HeadstartError as error:
        raise IncomparableError(f"{why}{error}") from error
