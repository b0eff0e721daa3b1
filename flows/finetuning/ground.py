"""What fine-tuning and audits start from: the newest head, its data, and the pictures to train and validate on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flows.features.backbone import find_recorded_backbone
from flows.features.extraction import Extracted, extract
from flows.features.fitting import held_out
from flows.versions.promote import list_heads
from pipeline.dataset.split import split_validation
from pipeline.decision.nouns import Plan
from pipeline.decision.schedule import Schedule, plan_finetuning
from pipeline.errors import DataError, NotFoundError, UsageError
from pipeline.report.record import parse_plan
from pipeline.types import BackboneSpec, Image, Manifest, ModelRef, Progress, Split
from storage.datasets.manifests import DatasetRef, read_manifest
from storage.models.versions import list_models
from storage.workspace import Workspace

Log = Callable[[str], None]
OnEpoch = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job before it runs."""

    id: str
    asked: dict[str, Any]  # for people, and for `gc`
    outcome: dict[str, Any] | None  # how it ended, if it has
    head: ModelRef  # that it starts from and has to beat


@dataclass(frozen=True, slots=True)
class Ground:
    """What every part of a job stands on."""

    workspace: Workspace
    manifest: Manifest
    spec: BackboneSpec
    plan: Plan
    extracted: Extracted
    fit_on: list[Image]
    validate_on: list[Image]
    test_on: list[Image]
    test_split: Split


def newest_head(workspace: Workspace, name: str) -> ModelRef:
    """Find the newest version of a model that is a head on frozen features.

    Raises
    ------
    NotFoundError
        When there is none.
    UsageError
        When its labels do not exclude each other.
    """
    heads = list_heads(workspace, name)
    if not heads:
        known = ", ".join(sorted({ref.name for ref in list_models(workspace)})) or "none yet"
        raise NotFoundError(
            f"There is no model '{name}' to start from. Known: {known}. Train its head first: headstart onboard DIR"
        )
    if not heads[-1].record["data"].get("exclusive", True):
        raise UsageError(
            f"The labels of '{name}' do not exclude each other, and fine-tuning is not offered for such labels yet. "
            "Its head stays the model."
        )
    return heads[-1]


def plan_schedule(manifest: Manifest, epochs: int | None) -> Schedule:
    """Choose how a dataset's network is fine-tuned."""
    return plan_finetuning(len(manifest.of_split("train")), epochs)


def prepare(workspace: Workspace, name: str, head: ModelRef, progress: Progress | None) -> Ground:
    """Find what a head was made from; features that are gone by now are computed again."""
    record = head.record
    manifest = read_manifest(workspace, name, record["data"]["fingerprint"])
    if not os.path.isdir(manifest.root):
        raise DataError(
            f"{manifest.root} is gone, but its pictures are needed. Bring it back, or onboard its new place."
        )
    spec = find_recorded_backbone(workspace, record)
    dataset = DatasetRef(name, manifest.root, manifest.fingerprint)
    extracted = extract(str(workspace.root), dataset, spec, 0, progress)
    left_out = {item.path for item in extracted.rejected}
    images = [image for image in manifest.images if image.path not in left_out]
    test_on, test_split = held_out(images)
    fit_on, validate_on = split_validation(images, test_split)
    if not fit_on or not validate_on:
        raise DataError(
            f"{len(fit_on)} pictures to train on and {len(validate_on)} to validate on are too few for fine-tuning. "
            "Add pictures; the head stays the model."
        )
    plan = parse_plan(record)
    return Ground(workspace, manifest, spec, plan, extracted, fit_on, validate_on, test_on, test_split)
