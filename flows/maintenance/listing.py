"""Lists of what a workspace holds: datasets, features, models; and the layers of a backbone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.backbones.arithmetic import LayerRow
from pipeline.backbones.table import BACKBONES, get_backbone
from pipeline.errors import ConflictError
from pipeline.report.record import ModelKind, ModelRef
from pipeline.types import DECODERS, Recipe, Tap
from storage.datasets import manifests
from storage.features.spaces import list_spaces
from storage.features.store import open_features
from storage.models import versions as models
from storage.models.bundles import REPORT_FILE
from storage.models.serving import get_model, serving_version
from storage.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A dataset: its name, size and place."""

    name: str
    num_images: int
    num_train: int
    num_test: int
    num_classes: int
    num_rejected: int
    fingerprint: str
    root: str


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A feature space: its backbone and taps, and how many pictures it holds."""

    space: str
    backbone: str
    recipe: str
    size: int  # pixels, side of the square given to the network
    view: str
    num_images: int
    megabytes: float
    dtype: str
    taps: str  # with their dimensions


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A version of a model: what it is, whether its name means it, and how good it is."""

    model: str  # name@version
    serves: bool
    kind: ModelKind
    case: int
    strategy: str  # of the plan; a head may be what a fine-tuning is to start from
    accuracy: float | None
    mAP: float | None  # of pictures with several labels
    num_test: int
    created: str
    path: str


@dataclass(frozen=True, slots=True)
class BackboneLayers:
    """A backbone: its layers with shapes and parameters, and its taps."""

    backbone: str
    weights: str
    weights_sha256: str
    space: str
    recipe: Recipe
    num_parameters: int
    taps: tuple[Tap, ...]
    layers: tuple[LayerRow, ...]


def list_datasets(workspace: Workspace) -> list[DatasetRow]:
    """List the datasets by name."""
    rows = []
    for ref in manifests.list_datasets(workspace):
        manifest = manifests.read_manifest(workspace, ref.name, ref.fingerprint)
        row = DatasetRow(
            name=ref.name,
            num_images=len(manifest.images),
            num_train=len(manifest.of_split("train")),
            num_test=len(manifest.of_split("test")),
            num_classes=len(manifest.classes),
            num_rejected=len(manifest.rejected),
            fingerprint=ref.fingerprint,
            root=ref.root,
        )
        rows.append(row)
    return rows


def list_features(workspace: Workspace) -> list[FeatureRow]:
    """List the feature spaces."""
    rows = []
    for space in list_spaces(workspace):
        with open_features(workspace, space) as store:
            row = FeatureRow(
                space=space.id,
                backbone=space.backbone,
                recipe=next(name for name, decoder in DECODERS.items() if decoder == space.recipe.decoder),
                size=space.recipe.size,
                view=space.recipe.view,
                num_images=store.num_stored,
                megabytes=round(store.num_bytes / 1e6, 1),
                dtype=space.dtype,
                taps=", ".join(f"{tap.name} {tap.dim}" for tap in space.taps),
            )
        rows.append(row)
    return rows


def list_models(workspace: Workspace) -> list[ModelRow]:
    """List every saved version of every model."""
    refs = models.list_models(workspace)
    serving = {name: _serving(workspace, name) for name in {ref.name for ref in refs}}
    return [
        ModelRow(
            model=f"{ref.name}@{ref.version}",
            serves=serving[ref.name] == ref.version,
            kind=ref.record.kind,
            case=ref.record.plan.case,
            strategy=ref.record.plan.strategy,
            accuracy=_rounded(ref, "accuracy"),
            mAP=_rounded(ref, "mean_average_precision"),
            num_test=ref.record.metrics.num_images,
            created=ref.record.created,
            path=ref.path,
        )
        for ref in refs
    ]


def _serving(workspace: Workspace, name: str) -> int | None:
    try:
        return serving_version(workspace, name)
    except ConflictError as error:  # the list helps to choose another version
        log.warning("%s", error)
        return None


def _rounded(ref: ModelRef, name: str) -> float | None:
    value = getattr(ref.record.metrics, name, None)
    return None if value is None else round(value, 4)


def show_model(workspace: Workspace, model: str) -> tuple[dict[str, Any], str]:
    """Return a model's record as it is stored, and its report in Markdown."""
    ref = get_model(workspace, model)
    return models.read_record(Path(ref.path)), (Path(ref.path) / REPORT_FILE).read_text(encoding="utf-8")


def inspect_backbone(name: str, weights: str | None) -> BackboneLayers:
    """Describe a backbone; by default without loading weights."""
    from pipeline.backbones.applications import describe_application
    from pipeline.backbones.inspection import inspect_network
    from pipeline.backbones.networks import load_backbone

    spec = get_backbone(name) if name in BACKBONES else describe_application(name, weights or "none")
    network = load_backbone(spec)
    return BackboneLayers(
        backbone=spec.name,
        weights=spec.weights,
        weights_sha256=spec.weights_sha256,
        space=spec.space().id,
        recipe=spec.recipe,
        num_parameters=network.count_params(),
        taps=spec.taps,
        layers=tuple(inspect_network(network, spec.taps)),
    )
