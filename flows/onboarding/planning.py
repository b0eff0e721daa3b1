"""The plan step: a dataset is measured, its case decided, and its cost predicted from earlier runs on this machine."""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict, replace

from flows import stopwatch
from flows.features.backbone import engine_id
from flows.features.extraction import Extracted
from flows.onboarding.similarity import measure_similarity
from pipeline.backbones.table import DEFAULT_BACKBONE
from pipeline.decision.nouns import Change, Plan, RankedBackbone, ScoredQuote
from pipeline.decision.plan import EVIDENCE, NO_WISHES, Wishes, measure_size, plan_case
from pipeline.decision.quote import Rates, Work, plan_quote, score_quote
from pipeline.fingerprint import fingerprint
from pipeline.images.views import ORIGINAL, view_names
from pipeline.machine import machine_id
from pipeline.types import BackboneSpec, Manifest
from storage.datasets.manifests import DatasetRef, read_manifest
from storage.features.store import open_features
from storage.measurements import find_measurement, write_measurement
from storage.workspace import Workspace

FEWEST_TIMED = 200  # pictures: below, starting up is most of the time
MEMORABLE = 0.2  # a rate is kept until another one differs by this share, so that plans stay as they are
KEY_BYTES = 40  # of a stored row, beside its features


def plan_dataset(
    workspace: Workspace,
    dataset: DatasetRef,
    spec: BackboneSpec,
    wishes: Wishes = NO_WISHES,
    ranking: tuple[RankedBackbone, ...] = (),
    num_views: int = 0,
) -> Plan:
    """Measure similarity and size, decide the case, and predict the cost. A sample is measured once."""
    manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
    similarity = measure_similarity(workspace, manifest, spec)
    train_images = manifest.of_split("train")
    labels = [label for image in train_images for label in image.labels]
    size = measure_size(labels, len(manifest.classes), similarity.verdict, len(train_images))
    plan = plan_case(similarity, size, spec.name, spec.taps, wishes, manifest.exclusive)
    if ranking:
        from pipeline.heads.ranking import describe_ranking

        own = Change("backbone", spec.name, DEFAULT_BACKBONE, EVIDENCE)
        changes = plan.changes if spec.name == DEFAULT_BACKBONE else (*plan.changes, own)
        reasons = (*plan.reasons, describe_ranking(ranking))
        plan = replace(plan, backbones=ranking, changes=changes, reasons=reasons)
    work = _measure_work(workspace, manifest, spec, num_views)
    return replace(plan, quote=plan_quote(work, rates_of(workspace, spec)))


def _measure_work(workspace: Workspace, manifest: Manifest, spec: BackboneSpec, num_views: int) -> Work:
    train = manifest.of_split("train")
    missing = 0
    for view in (ORIGINAL, *view_names(num_views)):
        images = manifest.images if view == ORIGINAL else train
        with open_features(workspace, spec.space(view)) as store:
            missing += len(store.missing([image.digest for image in images]))
    item_bytes = 2 if spec.space().dtype == "float16" else 4
    return Work(
        num_missing=missing,
        num_rows=len(train) * (1 + num_views),
        num_train=len(train),
        num_classes=len(manifest.classes),
        size=spec.recipe.size,
        row_bytes=item_bytes * sum(tap.dim for tap in spec.taps) + KEY_BYTES,
        taps=spec.taps,
    )


def rates_of(workspace: Workspace, spec: BackboneSpec) -> Rates:
    return Rates(**(find_measurement(workspace, "rates", _key(spec)) or {}))


def remember_rate(workspace: Workspace, spec: BackboneSpec, what: str, num_images: int, seconds: float) -> None:
    """Keep how fast something went, for the next quote; only if enough pictures were timed and it differs."""
    if num_images < FEWEST_TIMED or seconds <= 0:
        return
    known, rate = rates_of(workspace, spec), num_images / seconds
    before = getattr(known, what)
    if before is None or abs(rate / before - 1) > MEMORABLE:
        write_measurement(workspace, "rates", _key(spec), asdict(known) | {what: rate})


def score(workspace: Workspace, spec: BackboneSpec, plan: Plan, extracted: Extracted) -> ScoredQuote | None:
    """Hold a plan's quote against this run, and keep the rate it went at."""
    if plan.quote is None:
        return None
    seconds = stopwatch.seconds()
    remember_rate(workspace, spec, "extracted", extracted.num_computed, seconds.get("extract", 0.0))
    with open_features(workspace, spec.space()) as store:
        num_bytes = extracted.num_computed * store.num_bytes / max(store.num_stored, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return score_quote(plan.quote, seconds, num_bytes, peak_bytes)


def _key(spec: BackboneSpec) -> str:
    return fingerprint({"engine": engine_id(spec), "recipe": asdict(spec.recipe), "machine": machine_id()})
