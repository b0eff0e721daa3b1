"""A trained model to a saved version: written, certified against the cached path, recorded and reported."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows import stopwatch
from flows.features.extraction import Extracted, summarize_features
from flows.features.forward import reader
from flows.stopwatch import stage
from pipeline.dataset.split import sample_images
from pipeline.decision.finetuned import FinetuneReport
from pipeline.decision.nouns import Plan, ScoredQuote
from pipeline.report.record import ModelRecord, ModelRef, Provenance, build_record
from pipeline.types import Array, BackboneSpec, Head, Image, LabelMetrics, LearningCurve, Manifest, Metrics, Recipe
from storage.models.bundles import MODEL_FILE, write_bundle_files
from storage.models.versions import save_version
from storage.workspace import Workspace

NUM_CERTIFIED = 8  # pictures on which a model is compared with the cached path
PACKAGES = ("headstart", "tensorflow", "keras", "openvino", "h5py", "scikit-learn", "numpy", "pillow")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewModel:
    """A trained model before it is saved, and what it was made from."""

    request: str  # digest of everything that determines it
    manifest: Manifest
    plan: Plan
    spec: BackboneSpec  # of the features
    recipe: Recipe  # of the pictures that the model takes
    extracted: Extracted
    head: Head
    build: Callable[[], Any]  # the Keras model that is delivered
    test_on: Sequence[Image]
    probabilities: Array  # (len(test_on), classes), by the cached path
    metrics: Metrics | LabelMetrics
    learning_curve: LearningCurve | None = None
    finetune: FinetuneReport | None = None
    score_quote: Callable[[], ScoredQuote | None] = lambda: None  # asked last: it measures the whole run


def save_model(workspace: Workspace, model: NewModel) -> ModelRef:
    """Write a model, certify it and save it as the next version, with its record and its report.

    Raises
    ------
    NumericsError
        The written model differs from the cached path: nothing is saved.
    """
    from pipeline.delivery.model import certify
    from pipeline.report.page import render_report

    manifest, recipe, head = model.manifest, model.recipe, model.head

    def fill(folder: Path) -> ModelRecord:
        with stage("save"):
            model.build().save(folder / MODEL_FILE)
            write_bundle_files(folder, manifest.classes, recipe, head.thresholds)
        with stage("certify"):
            chosen = sample_images(model.test_on, NUM_CERTIFIED)
            rows = [model.test_on.index(image) for image in chosen]
            written, read = folder / MODEL_FILE, reader(manifest)
            certificate = certify(written, chosen, read, recipe, model.probabilities, rows, head.thresholds)
        provenance = Provenance(
            request=model.request,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            certificate=certificate,
            features=summarize_features(model.spec, model.extracted),
            learning_curve=model.learning_curve,
            quote_scored=model.score_quote(),
            finetune=model.finetune,
            seconds=stopwatch.seconds(),
            versions={"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
        )
        spec, rejected = replace(model.spec, recipe=recipe), model.extracted.rejected
        return build_record(manifest, model.plan, spec, head, model.metrics, rejected, provenance)

    return save_version(workspace, manifest.dataset, fill, render_report)
