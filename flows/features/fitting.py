"""Heads on stored features: what is read of a dataset, and the fit for its kind of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.errors import DataError
from pipeline.types import BackboneSpec, Head, Image, Manifest, Split, Tap
from storage.features.store import FeatureStore, StoredTaps
from storage.workspace import Workspace


def fit(manifest: Manifest, features: Any, taps: Sequence[Tap], images: Sequence[Image], num_rows: int) -> Head:
    """Fit the head for a dataset's labels; `num_rows` of features are of each image, view after view."""
    groups = [*range(len(images))] * num_rows if num_rows > 1 else None
    if manifest.exclusive:
        from pipeline.heads.fit import fit_head

        return fit_head(features, taps, labels_of(images) * num_rows, len(manifest.classes), groups)
    from pipeline.heads.multilabel import fit_multilabel_head

    label_sets = [image.labels for image in images]
    return fit_multilabel_head(features, taps, label_sets * num_rows, len(manifest.classes), groups)


def read_taps(
    workspace: Workspace, spec: BackboneSpec, views: Sequence[str], images: Sequence[Image], taps: Sequence[str]
) -> StoredTaps:
    """Return tap name -> (views x images, dim), view after view; a tap is read when it is asked for."""
    digests = [image.digest for image in images]
    stores = [FeatureStore(workspace, spec.space(view)) for view in views]
    return StoredTaps(stores, digests, taps)


def labels_of(images: Sequence[Image]) -> list[int]:
    return [image.label for image in images]


def held_out(images: Sequence[Image]) -> tuple[list[Image], Split]:
    """Choose the pictures to evaluate on: the test split, or the val split of a folder that has no other."""
    for split in ("test", "val"):
        if chosen := [image for image in images if image.split == split]:
            return chosen, split
    raise DataError("No readable test picture is left, so nothing can be measured. Add pictures to the test split.")
