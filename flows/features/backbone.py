"""The network that a run uses, and its compiled form for this machine."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.settings import visible_gpus
from flows.stopwatch import stage
from pipeline.backbones.table import BACKBONES, SIZES, WHEEL, check_backbone, get_backbone, own_size
from pipeline.engine.files import TAPS_FILE
from pipeline.errors import NotFoundError
from pipeline.fingerprint import fingerprint
from pipeline.jsonable import from_json
from pipeline.machine import has_gpu, machine_id
from pipeline.report.record import ModelRecord
from pipeline.types import BackboneSpec
from storage.disk.hashes import hash_file
from storage.measurements import find_measurement, list_measurements, read_measurement, write_measurement
from storage.models.engines import find_engine, new_engine
from storage.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.engine.extract import FeatureEngine
    from pipeline.engine.openvino_engine import Engine, Tuning

log = logging.getLogger(__name__)

TUNED_FROM = 5_000  # pictures; the race for the fastest tuning takes ten seconds, once per network and machine
ENGINE_VERSION = 4  # raised when a change of the code compiles another network from the same backbone


def describe_backbone(
    workspace: Workspace, name: str, weights: str | None, decoder: str, size: int | None = None
) -> BackboneSpec:
    """Describe the backbone that a run asks for.

    One that is not embedded must be built once to know its taps and the digest of its weights; that is remembered.

    Raises
    ------
    UnknownNameError, UsageError, NotFoundError
        When there is no such network, it does not take the size, or its weights cannot be had. Nothing heavy is loaded
        then, unless only Keras knows that the size is too small.
    """
    check_backbone(name, weights, size)
    spec = get_backbone(name, size) if name in BACKBONES else _describe(workspace, name, weights or "imagenet", size)
    return replace(spec, recipe=replace(spec.recipe, decoder=decoder))


def _describe(workspace: Workspace, name: str, weights: str, size: int | None) -> BackboneSpec:
    file = Path(weights)
    identity: dict[str, Any] = {
        "backbone": name,
        "weights": {"file": hash_file(file)} if file.is_file() else {"named": weights},
        "keras": version("keras"),
        "version": ENGINE_VERSION,
    }
    # the own size is not named: what older versions described is still found
    key = fingerprint(identity if size in (None, own_size(name)) else {**identity, "size": size})
    if value := find_measurement(workspace, "backbones", key):
        found = from_json(BackboneSpec, value)
        return replace(found, source=str(file.resolve())) if file.is_file() else found  # it may have moved
    with stage("imports"):
        from pipeline.backbones.applications import describe_application
    with stage("describe"):
        spec = describe_application(name, weights, size)
    write_measurement(workspace, "backbones", key, asdict(spec))
    return spec


def list_backbones(workspace: Workspace) -> list[BackboneSpec]:
    """Every backbone that can be used here: the embedded ones at any size, and those that a run has described."""
    embedded = [get_backbone(name, size) for name in BACKBONES for size in sorted({*SIZES, own_size(name)})]
    described = [read_measurement(workspace, "backbones", key) for key in list_measurements(workspace, "backbones")]
    return [*embedded, *(from_json(BackboneSpec, value) for value in described)]


def get_recorded_backbone(workspace: Workspace, record: ModelRecord) -> BackboneSpec:
    """Find the backbone of a model's record among those known here.

    Raises
    ------
    NotFoundError
        When it is not known any more.
    """
    wanted, recipe = record.backbone, record.recipe
    for spec in list_backbones(workspace):
        same = (spec.name, spec.weights_sha256) == (wanted.name, wanted.weights_sha256)
        if same and (spec.source == WHEEL or spec.recipe.size == recipe.size):
            moments = spec.moments if spec.recipe.size == recipe.size else None
            return replace(spec, recipe=recipe, moments=moments)
    raise NotFoundError(
        f"The head's backbone, {wanted.name} with weights {wanted.weights}, is not known in {workspace.root}. "
        "Onboard the folder again."
    )


def engine_id(spec: BackboneSpec) -> str:
    """Name a backbone's compiled networks: other weights, or another OpenVINO, have others."""
    return fingerprint(
        {
            "backbone": spec.name,
            "weights": spec.weights_sha256,
            "size": spec.recipe.size,
            "taps": [asdict(tap) for tap in spec.taps],
            "openvino": version("openvino"),
            "version": ENGINE_VERSION,
        }
    )


def backbone_files(workspace: Workspace, spec: BackboneSpec) -> Path:
    """Find the compiled networks of a backbone, or compile them: the only use of TensorFlow before delivery."""
    if found := find_engine(workspace, engine_id(spec)):
        return found
    with stage("imports"):
        from pipeline.engine.conversion import convert_backbone
    with stage("convert"), new_engine(workspace, engine_id(spec)) as folder:
        convert_backbone(spec, folder)
    return workspace.engine(engine_id(spec))


@cache  # the parts of one pass, and its views, share it
def load_engine(network: Path, tuning: Tuning | None = None) -> Engine:
    """Load a compiled network."""
    from pipeline.engine.openvino_engine import DEFAULT_TUNING, Engine

    return Engine.load(network, tuning or DEFAULT_TUNING)


def taps_engine(workspace: Workspace, spec: BackboneSpec, num_images: int) -> FeatureEngine:
    """Load what computes all taps on this machine: Keras if there is a GPU, else the compiled network."""
    if has_gpu(visible_gpus()):
        with stage("imports"):
            from pipeline.engine.keras_engine import load_keras_engine, sees_gpu
        if sees_gpu():
            return load_keras_engine(spec)
        log.warning("There is a GPU, but TensorFlow does not find the CUDA libraries it needs; computing on the CPU.")
    network = backbone_files(workspace, spec) / TAPS_FILE
    return load_engine(network, _tuning(workspace, network, num_images))


def _tuning(workspace: Workspace, network: Path, num_images: int) -> Tuning | None:
    """Find how a network runs fastest on this machine; it is measured when there is enough to compute that it pays."""
    key = fingerprint({"engine": network.parent.name, "machine": machine_id()})
    value = find_measurement(workspace, "tuning", key)
    if value is None and num_images < TUNED_FROM:
        return None
    from pipeline.engine.openvino_engine import Tuning
    from pipeline.engine.tuning import tune

    if value is not None:
        return Tuning(**value)
    with stage("tune"):
        tuning = tune(network)
    write_measurement(workspace, "tuning", key, asdict(tuning))
    return tuning
