"""How similar a dataset is to what a backbone was trained on: measured on a sample, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from flows.features.backbone import backbone_files, describe_backbone, load_engine
from flows.features.forward import compute, reader
from flows.progress import Quiet
from flows.stopwatch import stage
from pipeline.backbones.table import BACKBONES, DEFAULT_BACKBONE, MOMENTS, RANDOM, get_backbone
from pipeline.dataset.split import sample_images
from pipeline.decision.nouns import Similarity
from pipeline.decision.thresholds import Thresholds, find_thresholds
from pipeline.engine.files import MOMENTS_FILE
from pipeline.errors import DamagedError, DataError
from pipeline.fingerprint import fingerprint
from pipeline.jsonable import from_json
from pipeline.types import DECODERS, BackboneSpec, Image, Manifest
from storage.features.writer import FeatureWriter
from storage.measurements import find_measurement, write_measurement
from storage.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.types import Array

NUM_SAMPLED = 104  # pictures; between samples of 100, D_BN moves by 0.003 (one sigma)
SIMILARITY_VERSION = 2  # raised when a change in the code gives another answer for the same pictures


@dataclass(frozen=True, slots=True)
class Yardstick:
    """Which network measures, and why not another."""

    spec: BackboneSpec
    thresholds: Thresholds
    own: BackboneSpec | None = None  # measured beside it, if it has no thresholds
    why: str = ""


def measure_similarity(workspace: Workspace, manifest: Manifest, spec: BackboneSpec) -> Similarity:
    """Measure a sample of the training pictures, or find what was measured before.

    Moments are kept like features: of a sample that grew, only what is new is run.
    """
    yardstick = choose_yardstick(workspace, spec)
    sample = sample_images(manifest.of_split("train"), NUM_SAMPLED)
    key = fingerprint(
        {
            "space": yardstick.spec.moment_space().id,
            "own": yardstick.own.moment_space().id if yardstick.own else yardstick.why,
            "thresholds": asdict(yardstick.thresholds),
            "sample": [image.digest.hex() for image in sample],
            "version": SIMILARITY_VERSION,
        }
    )
    if value := find_measurement(workspace, "similarity", key):
        return from_json(Similarity, value)
    with stage("measure"):
        similarity, whole = _measure(workspace, manifest, yardstick, sample)
    if whole:
        write_measurement(workspace, "similarity", key, asdict(similarity))
    return similarity


def choose_yardstick(workspace: Workspace, spec: BackboneSpec) -> Yardstick:
    """Choose the network that measures: the backbone's own at its own size, or the embedded one and why."""
    embedded = get_backbone(DEFAULT_BACKBONE)
    known = find_thresholds(embedded)
    if known is None:
        raise DamagedError(
            f"The thresholds of {DEFAULT_BACKBONE}, which every headstart has, are not those of its weights. "
            "Install headstart once more."
        )
    if spec.source == RANDOM:
        return Yardstick(embedded, known, why="its weights are random, so its BatchNorm layers remember no data")
    weights = None if spec.name in BACKBONES else spec.source
    own = describe_backbone(workspace, spec.name, weights, DECODERS["exact"])
    if own.moments is None:
        return Yardstick(embedded, known, why="it has no BatchNorm layers that remember data")
    if thresholds := find_thresholds(own):
        return Yardstick(own, thresholds)
    return Yardstick(embedded, known, own, why="no thresholds are known for its own BatchNorm layers")


def _measure(
    workspace: Workspace, manifest: Manifest, yardstick: Yardstick, sample: Sequence[Image]
) -> tuple[Similarity, bool]:
    """Measure a sample; False if some of it could not be read just now."""
    from pipeline.decision.similarity import judge_sample, measure_drift
    from pipeline.engine.files import read_statistics

    spec, own = yardstick.spec, yardstick.own
    moments, whole = _compute_moments(workspace, manifest, spec, sample)
    similarity = judge_sample(
        read_statistics(backbone_files(workspace, spec)), moments, spec.name, yardstick.thresholds
    )
    similarity = replace(similarity, why_with=yardstick.why)
    if own is None:
        return similarity, whole
    moments, also_whole = _compute_moments(workspace, manifest, own, sample)
    drift = measure_drift(read_statistics(backbone_files(workspace, own)), moments, own.name)
    return replace(similarity, own=drift), whole and also_whole


def _compute_moments(
    workspace: Workspace, manifest: Manifest, spec: BackboneSpec, sample: Sequence[Image]
) -> tuple[Array, bool]:
    """Compute the moments that the store does not have; False if a picture could not be read just now."""
    digests = [image.digest for image in sample]
    folder = backbone_files(workspace, spec)
    with FeatureWriter(workspace, spec.moment_space()) as store:
        missing = set(store.missing(digests))
        unread: set[str] = set()
        if missing:
            images = [image for image in sample if image.digest in missing]
            engine = load_engine(folder / MOMENTS_FILE)
            for block in compute(workspace, store, images, reader(manifest), engine, Quiet()):
                unread |= {item.path for item in block.unread}
        left_out = store.rejects(digests)
        readable = [i.digest for i in sample if i.digest not in left_out and i.path not in unread]
        if not readable:
            raise DataError(f"None of {len(sample)} sampled pictures could be decoded, so nothing can be measured.")
        return store.read(readable, MOMENTS), not unread
