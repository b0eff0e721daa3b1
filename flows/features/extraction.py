"""The extract step, in parts that any process can take, and what is read of the features afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.features.backbone import taps_engine
from flows.features.forward import compute, reader
from flows.progress import Quiet
from flows.stopwatch import stage
from pipeline.images.views import ORIGINAL, view_names
from pipeline.report.record import FeatureSummary
from pipeline.types import BackboneSpec, Image, Manifest, Progress, Rejected
from storage.datasets.manifests import DatasetRef, read_manifest
from storage.features.store import StoredTaps, open_features
from storage.features.writer import FeatureWriter
from storage.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the pictures of one view, by their places among them."""

    view: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Computed:
    """The result of a part."""

    num_computed: int
    unread: tuple[Rejected, ...]  # files that could not be read just now


@dataclass(frozen=True, slots=True)
class Extracted:
    """What a pass over a dataset found, computed and left out."""

    num_images: int  # distinct pictures whose features are stored
    num_views: int  # augmented ones of each training picture, beside the original
    num_rows: int  # of features that training and evaluation use: pictures, and views of training pictures
    num_computed: int  # of these rows, in this run
    rejected: tuple[Rejected, ...]  # files that are no usable pictures, found by header or on decoding


def summarize_features(spec: BackboneSpec, extracted: Extracted) -> FeatureSummary:
    """Say where features came from, for the record and the answer."""
    return FeatureSummary(
        num_images=extracted.num_images,
        num_views=extracted.num_views,
        num_computed=extracted.num_computed,
        num_reused=extracted.num_rows - extracted.num_computed,
        num_rejected=len(extracted.rejected),
        backbone=spec.name,
        space=spec.space().id,
        taps=tuple(tap.name for tap in spec.taps),
    )


def extract(
    workspace: Workspace,
    dataset: DatasetRef,
    spec: BackboneSpec,
    num_views: int = 0,
    progress: Progress | None = None,
) -> Extracted:
    """Compute what the store does not have, all taps in one pass, here and now."""
    parts = plan_parts(workspace, dataset, spec, num_views)
    computed = [extract_part(workspace, dataset, spec, part, progress) for part in parts]
    return summarize(workspace, dataset, spec, num_views, computed)


def plan_parts(
    workspace: Workspace, dataset: DatasetRef, spec: BackboneSpec, num_views: int, part_rows: int | None = None
) -> list[Part]:
    """Divide what is missing into parts of at most `part_rows` pictures, by default one a view."""
    manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
    parts = []
    for view in (ORIGINAL, *view_names(num_views)):
        digests = [image.digest for image in _images(manifest, view)]
        with open_features(workspace, spec.space(view)) as store:
            missing = set(store.missing(digests))
        size = part_rows or max(len(digests), 1)
        spans = [(start, min(start + size, len(digests))) for start in range(0, len(digests), size)]
        parts += [Part(view, *span) for span in spans if not missing.isdisjoint(digests[slice(*span)])]
    return parts


def extract_part(
    workspace: Workspace, dataset: DatasetRef, spec: BackboneSpec, part: Part, progress: Progress | None = None
) -> Computed:
    """Compute the missing features of a part; safe to run again, here or elsewhere, at the same time too."""
    manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
    candidates = _images(manifest, part.view)[part.start : part.stop]
    num_computed = 0
    unread: list[Rejected] = []
    with FeatureWriter(workspace, spec.space(part.view)) as store:
        missing = set(store.missing([image.digest for image in candidates]))
        if images := [image for image in candidates if image.digest in missing]:
            engine = taps_engine(workspace, spec, len(images))
            with stage("extract"):
                for block in compute(workspace, store, images, reader(manifest), engine, progress or Quiet()):
                    num_computed += len(block.digests)
                    unread += block.unread
    return Computed(num_computed, tuple(unread))


def summarize(
    workspace: Workspace, dataset: DatasetRef, spec: BackboneSpec, num_views: int, computed: Sequence[Computed]
) -> Extracted:
    """Say what a dataset has now, after the parts of a pass."""
    manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
    with open_features(workspace, spec.space()) as store:
        undecodable = store.rejects([image.digest for image in manifest.images])
    left_out = {image.path: undecodable[image.digest] for image in manifest.images if image.digest in undecodable}
    left_out |= {item.path: item.reason for part in computed for item in part.unread}
    rejected = [*manifest.rejected, *(Rejected(path, reason) for path, reason in left_out.items())]
    used = [image for image in manifest.images if image.path not in left_out]
    return Extracted(
        num_images=len(used),
        num_views=num_views,
        num_rows=len(used) + num_views * sum(image.split == "train" for image in used),
        num_computed=sum(part.num_computed for part in computed),
        rejected=tuple(sorted(rejected, key=lambda item: item.path)),
    )


def read_taps(
    workspace: Workspace, spec: BackboneSpec, views: Sequence[str], images: Sequence[Image], taps: Sequence[str]
) -> StoredTaps:
    """Return tap name -> (views x images, dim), view after view; a tap is read when it is asked for."""
    digests = [image.digest for image in images]
    return StoredTaps(workspace, [spec.space(view) for view in views], digests, taps)


def pack_features(
    workspace: Workspace, dataset: DatasetRef, spec: BackboneSpec, extracted: Extracted, path: str
) -> None:
    """Write all features, labels and splits of a dataset to one new HDF5 file, in the order of its manifest."""
    from storage.features.packs import write_pack

    manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
    left_out = {item.path for item in extracted.rejected}
    images = [image for image in manifest.images if image.path not in left_out]
    with stage("pack"), open_features(workspace, spec.space()) as store:
        write_pack(store, images, manifest.classes, Path(path), exclusive=manifest.exclusive)


def _images(manifest: Manifest, view: str) -> tuple[Image, ...]:
    """Only what is trained on is augmented: pictures are tested as they are."""
    return manifest.images if view == ORIGINAL else manifest.of_split("train")
