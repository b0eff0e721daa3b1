"""The plan step: a dataset is measured, and its case decided."""

from __future__ import annotations

from dataclasses import replace

from flows.onboarding.similarity import measure_similarity
from pipeline.backbones.table import DEFAULT_BACKBONE
from pipeline.decision.nouns import Change, Plan, RankedBackbone
from pipeline.decision.plan import EVIDENCE, NO_WISHES, Wishes, measure_size, plan_case
from pipeline.types import BackboneSpec
from storage.datasets.manifests import DatasetRef, read_manifest
from storage.workspace import Workspace


def plan_dataset(
    workspace: Workspace,
    dataset: DatasetRef,
    spec: BackboneSpec,
    wishes: Wishes = NO_WISHES,
    ranking: tuple[RankedBackbone, ...] = (),
) -> Plan:
    """Measure similarity and size, and decide the case. A sample is measured once."""
    manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
    similarity = measure_similarity(workspace, manifest, spec)
    train_images = manifest.of_split("train")
    labels = [label for image in train_images for label in image.labels]
    size = measure_size(labels, len(manifest.classes), similarity.verdict, len(train_images))
    plan = plan_case(similarity, size, spec.name, spec.taps, wishes, manifest.exclusive)
    if not ranking:
        return plan
    from pipeline.heads.ranking import describe_ranking

    changes = plan.changes
    if spec.name != DEFAULT_BACKBONE:
        changes = (*changes, Change("backbone", spec.name, DEFAULT_BACKBONE, EVIDENCE))
    return replace(plan, backbones=ranking, changes=changes, reasons=(*plan.reasons, describe_ranking(ranking)))
