"""Predict with a saved model: find it, compile it once per machine, stream pictures through it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.fingerprint import fingerprint
from pipeline.report.record import ModelRef
from pipeline.types import Prediction, Recipe
from storage.models.bundles import MODEL_FILE, read_classes, read_recipe, read_thresholds
from storage.models.engines import find_engine, new_engine
from storage.models.serving import get_model
from storage.models.versions import check_bundle
from storage.workspace import Workspace

ENGINE_VERSION = 1  # raised when a change in the code compiles another network from the same model


def predict(workspace_root: str, model: str, paths: Sequence[str], top: int) -> Iterator[Prediction]:
    """Predict files and folders of files with a model given by name, name@version or folder.

    Raises
    ------
    NotFoundError
        When there is no such model, before anything heavy is loaded.
    """
    if not paths:
        raise UsageError("No picture was named. Give files or folders: headstart predict MODEL PATH...")
    workspace = Workspace.open(workspace_root)
    return predict_with(workspace, get_model(workspace, model), files_below(paths), top)


def predict_with(workspace: Workspace, ref: ModelRef, paths: Iterable[str], top: int) -> Iterator[Prediction]:
    """Predict files, in order, with a model that was found; DamagedError if it is not as it was saved."""
    check_bundle(ref)
    folder = Path(ref.path)
    recipe, classes, thresholds = read_recipe(folder), read_classes(folder), read_thresholds(folder)
    engine_folder = _classifier_engine(workspace, ref, recipe)

    from pipeline.delivery.predict import predict_files
    from pipeline.engine.files import CLASSIFIER_FILE
    from pipeline.engine.openvino_engine import Engine

    return predict_files(paths, Engine.load(engine_folder / CLASSIFIER_FILE), recipe, classes, top, thresholds)


def files_below(paths: Iterable[str]) -> Iterator[str]:
    """Name the files of each path in order: itself, or every visible file below a folder, sorted."""
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        for folder, subfolders, files in os.walk(path, followlinks=False):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(files):
                if not name.startswith("."):
                    yield os.path.join(folder, name)


def classifier_engine_id(ref: ModelRef) -> str:
    """Name a model's compiled network: another model, or another OpenVINO, has another one."""
    return fingerprint(
        {
            "model": ref.record.files[MODEL_FILE],
            "openvino": version("openvino"),
            "version": ENGINE_VERSION,
        }
    )


def _classifier_engine(workspace: Workspace, ref: ModelRef, recipe: Recipe) -> Path:
    """Find the compiled network of a model, or compile it: the only use of TensorFlow in prediction."""
    engine_id = classifier_engine_id(ref)
    if found := find_engine(workspace, engine_id):
        return found

    from pipeline.delivery.model import pixels_to_probabilities, read_model
    from pipeline.engine.conversion import convert_classifier

    with new_engine(workspace, engine_id) as folder:
        convert_classifier(pixels_to_probabilities(read_model(Path(ref.path) / MODEL_FILE)), recipe, folder)
    return workspace.engine(engine_id)
