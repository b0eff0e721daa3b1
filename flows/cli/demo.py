"""The main job on real pictures that need no download: scikit-learn's digits, onboarded and predicted."""

from __future__ import annotations

import sys
from pathlib import Path

from flows.cli import render
from flows.onboarding import story as steps
from flows.prediction.files import predict
from flows.requests import OnboardRequest
from storage.datasets.manifests import read_manifest
from storage.disk.staging import write_folder
from storage.workspace import Workspace

NAME = "demo-digits"
NUM_PREDICTED = 5


def run_demo(root: Path) -> None:
    """Write the pictures, onboard them, and predict a few that the model has not been trained on."""
    workspace = Workspace.open(root)
    folder = workspace.root / "demo" / "digits"
    if not folder.is_dir():
        from pipeline.images.digits import digit_pictures

        print(f"writing scikit-learn's handwritten digits to {folder}", file=sys.stderr)
        write_folder(folder, digit_pictures(), workspace.staging)
    request = OnboardRequest(str(folder), str(workspace.root), NAME)
    render.onboarded(steps.onboard(request, render.progress()))

    unseen = read_manifest(workspace, NAME).of_split("test")
    chosen = unseen[:: len(unseen) // NUM_PREDICTED][:NUM_PREDICTED]
    print(f"\nheadstart predict {NAME} …  (the folder is the truth)")
    render.predictions_table(predict(str(workspace.root), NAME, [str(folder / image.path) for image in chosen], top=3))
