"""`--backbone auto`: the backbones that are here, compared on a sample of the data within a time budget."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from flows.features.backbone import describe_backbone, engine_id, taps_engine
from flows.features.forward import compute, reader
from flows.progress import Quiet
from flows.settings import keras_home
from flows.stopwatch import stage
from pipeline.backbones.table import (
    APPLICATIONS,
    AUTO_MINUTES,
    BACKBONES,
    DEFAULT_BACKBONE,
    get_weights_path,
    is_installed,
    keras_file,
    own_size,
)
from pipeline.dataset.split import sample_images
from pipeline.decision.nouns import RankedBackbone
from pipeline.errors import DataError, HeadstartError
from pipeline.fingerprint import fingerprint
from pipeline.types import BackboneSpec, Image, Manifest
from storage.datasets.manifests import DatasetRef, read_manifest
from storage.features.writer import FeatureWriter
from storage.measurements import find_measurement, write_measurement
from storage.models.engines import find_engine
from storage.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.engine.extract import FeatureEngine

NUM_RANKED = 300  # training pictures
NUM_PROBED = 32  # of them, whose seconds tell what the rest will take
COMPILE_SECONDS = 15.0  # of a backbone that this workspace has not compiled: what must be left to begin one
SMALLEST_SAMPLE = 2  # pictures
RANKING_VERSIONS = {True: 1, False: 2}  # by `manifest.exclusive`; raised when the same features rank differently


def choose_backbone(
    workspace: Workspace, dataset: DatasetRef, decoder: str, minutes: float = AUTO_MINUTES
) -> tuple[BackboneSpec, tuple[RankedBackbone, ...]]:
    """Rank the backbones that are here and describe the best; what was ranked before is answered at once.

    Features of the sample go to the store, so extraction has less to do. The embedded backbone is always tried. What a
    picture takes is measured on a few before the rest of the sample is begun.
    """
    manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
    sample = sample_images(manifest.of_split("train"), NUM_RANKED)
    names = available_backbones()
    key = fingerprint(
        {
            "sample": [[image.digest.hex(), list(image.labels)] for image in sample],
            "classes": len(manifest.classes),
            "backbones": names,
            "decoder": decoder,
            "minutes": minutes,
            "version": RANKING_VERSIONS[manifest.exclusive],
        }
    )
    value = find_measurement(workspace, "rankings", key)
    if value is None:
        with stage("rank"):
            ranking = _rank(workspace, manifest, sample, names, decoder, time.monotonic() + 60 * minutes)
        write_measurement(workspace, "rankings", key, {"ranking": [asdict(row) for row in ranking]})
    else:
        ranking = tuple(RankedBackbone(**row) for row in value["ranking"])
    return describe_backbone(workspace, ranking[0].backbone, None, decoder), ranking


def available_backbones() -> list[str]:
    """List what can be used without a download, the cheap first; the embedded one before all.

    The price of a network is taken to be the bytes of its weights times the pixels it sees.
    """
    files = {name: keras_home() / "models" / keras_file(name) for name in APPLICATIONS}
    files |= {name: get_weights_path(name) for name in BACKBONES if is_installed(name)}
    prices = {name: file.stat().st_size * own_size(name) ** 2 for name, file in files.items() if file.is_file()}
    prices[DEFAULT_BACKBONE] = 0
    return sorted(prices, key=lambda name: (prices[name], name))


def _rank(
    workspace: Workspace, manifest: Manifest, sample: Sequence[Image], names: list[str], decoder: str, deadline: float
) -> tuple[RankedBackbone, ...]:
    from pipeline.heads.ranking import rank_backbones

    rows = []
    for name in names:
        limit = math.inf if name == DEFAULT_BACKBONE else deadline
        try:
            rows.append(_try(workspace, manifest, sample, name, decoder, limit))
        except HeadstartError as error:
            if name == DEFAULT_BACKBONE:
                raise
            rows.append(RankedBackbone(name, why_not=str(error).rstrip(".")))
    return rank_backbones(rows)


def _try(
    workspace: Workspace, manifest: Manifest, sample: Sequence[Image], name: str, decoder: str, deadline: float
) -> RankedBackbone:
    """Compute the sample's features with one backbone and score it, unless it would not end before the deadline."""
    left = deadline - time.monotonic()
    if left <= 0:
        return RankedBackbone(name, why_not="no time was left")
    spec = describe_backbone(workspace, name, None, decoder)
    with FeatureWriter(workspace, spec.space()) as store:
        missing = set(store.missing([image.digest for image in sample]))
        images = [image for image in sample if image.digest in missing]
        if images and left < COMPILE_SECONDS and not find_engine(workspace, engine_id(spec)):
            return RankedBackbone(name, why_not="no time was left to compile it")
        if images:
            engine = taps_engine(workspace, spec, len(images))
            started = time.monotonic()
            unread = _compute(workspace, store, images[:NUM_PROBED], manifest, engine)
            now, rest = time.monotonic(), images[NUM_PROBED:]
            rate = NUM_PROBED / (now - started)
            if now + len(rest) / rate > deadline:
                return RankedBackbone(name, why_not=f"at {rate:.0f} pictures a second it is slow")
            unread |= _compute(workspace, store, rest, manifest, engine)
            sample = [image for image in sample if image.path not in unread]
        return _score(store, manifest, sample, spec)


def _compute(
    workspace: Workspace, store: FeatureWriter, images: Sequence[Image], manifest: Manifest, engine: FeatureEngine
) -> set[str]:
    """Compute and keep features; returns the paths that could not be read just now."""
    blocks = compute(workspace, store, images, reader(manifest), engine, Quiet()) if images else ()
    return {item.path for block in blocks for item in block.unread}


def _score(store: FeatureWriter, manifest: Manifest, sample: Sequence[Image], spec: BackboneSpec) -> RankedBackbone:
    from pipeline.heads.labels import truth_of
    from pipeline.heads.ranking import score_backbone

    left_out = store.rejects([image.digest for image in sample])
    images = [image for image in sample if image.digest not in left_out]
    if len(images) < SMALLEST_SAMPLE:
        raise DataError(
            f"{len(images)} training pictures can be decoded; to compare backbones takes {SMALLEST_SAMPLE}."
        )
    features = {tap.name: store.read([image.digest for image in images], tap.name) for tap in spec.taps}
    return score_backbone(spec.name, features, spec.taps, truth_of(manifest, images))
