"""Heads on stored features: what is read of a dataset, and the fit for its kind of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.types import Array, BackboneSpec, Head, Image, Manifest, Tap
from storage.features.store import StoredTaps
from storage.workspace import Workspace


def fit(
    manifest: Manifest, features: Mapping[str, Array], taps: Sequence[Tap], images: Sequence[Image], num_views: int = 0
) -> Head:
    """Fit the head for a dataset's labels; features are of the images, then of each augmented view of them."""
    from pipeline.heads.fit import fit_head
    from pipeline.heads.labels import truth_of

    return fit_head(features, taps, truth_of(manifest, images), num_views)


def read_taps(
    workspace: Workspace, spec: BackboneSpec, views: Sequence[str], images: Sequence[Image], taps: Sequence[str]
) -> StoredTaps:
    """Return tap name -> (views x images, dim), view after view; a tap is read when it is asked for."""
    digests = [image.digest for image in images]
    return StoredTaps(workspace, [spec.space(view) for view in views], digests, taps)
