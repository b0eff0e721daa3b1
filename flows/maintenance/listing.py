"""What a workspace holds, as plain rows."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.backbones.table import BACKBONES, get_backbone
from pipeline.errors import ConflictError
from pipeline.report.record import ModelRef
from pipeline.types import DECODERS
from storage.datasets import manifests
from storage.features.spaces import list_spaces
from storage.features.store import FeatureStore
from storage.models import versions as models
from storage.models.bundles import REPORT_FILE
from storage.workspace import Workspace

log = logging.getLogger(__name__)


def list_datasets(workspace_root: str) -> list[dict[str, Any]]:
    """One row per dataset: its name, size and where it lies."""
    workspace = Workspace.open(workspace_root)
    rows = []
    for ref in manifests.list_datasets(workspace):
        manifest = manifests.read_manifest(workspace, ref.name, ref.fingerprint)
        rows.append(
            {
                "name": ref.name,
                "num_images": len(manifest.images),
                "num_train": len(manifest.of_split("train")),
                "num_test": len(manifest.of_split("test")),
                "num_classes": len(manifest.classes),
                "num_rejected": len(manifest.rejected),
                "fingerprint": ref.fingerprint,
                "root": ref.root,
            }
        )
    return rows


def list_features(workspace_root: str) -> list[dict[str, Any]]:
    """One row per feature space: backbone, taps and how many pictures it holds."""
    workspace = Workspace.open(workspace_root)
    rows = []
    for space in list_spaces(workspace):
        store = FeatureStore(workspace, space)
        rows.append(
            {
                "space": space.id,
                "backbone": space.backbone,
                "recipe": next(name for name, decoder in DECODERS.items() if decoder == space.recipe.decoder),
                "size": space.recipe.size,
                "view": space.recipe.view,
                "num_images": store.num_stored,
                "megabytes": round(store.num_bytes / 1e6, 1),
                "dtype": space.dtype,
                "taps": ", ".join(f"{tap.name} {tap.dim}" for tap in space.taps),
            }
        )
    return rows


def list_models(workspace_root: str) -> list[dict[str, Any]]:
    """One row per saved version: what it is, whether its name means it, and how good it is."""
    workspace = Workspace.open(workspace_root)
    refs = models.list_models(workspace)
    serving = {name: _serving(workspace, name) for name in {ref.name for ref in refs}}
    return [
        {
            "model": f"{ref.name}@{ref.version}",
            "serves": serving[ref.name] == ref.version,
            "case": ref.record.plan.case,
            "strategy": ref.record.plan.strategy,
            "accuracy": _rounded(ref, "accuracy"),
            "mAP": _rounded(ref, "mean_average_precision"),  # where labels do not exclude each other
            "num_test": ref.record.metrics.num_images,
            "created": ref.record.created,
            "path": ref.path,
        }
        for ref in refs
    ]


def _serving(workspace: Workspace, name: str) -> int | None:
    try:
        return models.serving_version(workspace, name)
    except ConflictError as error:  # the list is what helps to choose another
        log.warning("%s", error)
        return None


def _rounded(ref: ModelRef, name: str) -> float | None:
    value = getattr(ref.record.metrics, name, None)
    return None if value is None else round(value, 4)


def show_model(workspace_root: str, model: str) -> tuple[dict[str, Any], str]:
    """Return a model's record and its report in Markdown."""
    ref = models.get_model(Workspace.open(workspace_root), model)
    return models.read_record(Path(ref.path)), (Path(ref.path) / REPORT_FILE).read_text(encoding="utf-8")


def inspect_backbone(name: str, weights: str | None) -> dict[str, Any]:
    """Describe a backbone: its layers with shapes and parameters, and its taps; by default without loading weights."""
    from pipeline.backbones.applications import describe_application
    from pipeline.backbones.inspection import inspect_network
    from pipeline.backbones.networks import load_backbone

    spec = get_backbone(name) if name in BACKBONES else describe_application(name, weights or "none")
    network = load_backbone(spec)
    return {
        "backbone": spec.name,
        "weights": spec.weights,
        "weights_sha256": spec.weights_sha256,
        "space": spec.space().id,
        "recipe": asdict(spec.recipe),
        "num_parameters": network.count_params(),
        "taps": [asdict(tap) for tap in spec.taps],
        "layers": [asdict(row) for row in inspect_network(network, spec.taps)],
    }
