"""Lists of what a workspace holds, as rows and as `--json` prints them."""

from __future__ import annotations

import json

import pytest

from flows.maintenance import listing
from pipeline.backbones.table import DEFAULT_BACKBONE
from storage.workspace import Workspace

KEYS = {
    "datasets": {"name", "num_images", "num_train", "num_test", "num_classes", "num_rejected", "fingerprint", "root"},
    "features": {"space", "backbone", "recipe", "size", "view", "num_images", "megabytes", "dtype", "taps"},
    "models": {"model", "serves", "kind", "case", "strategy", "accuracy", "mAP", "num_test", "created", "path"},
}


@pytest.mark.parametrize("command", KEYS)
def test_json_has_the_rows_under_their_name_with_the_keys_of_always(headstart, first_run, command):
    document = json.loads(headstart(command, "--json", "--workspace", first_run.workspace).stdout)
    assert set(document) == {"schema_version", command}
    assert {frozenset(row) for row in document[command]} == {frozenset(KEYS[command])}


def test_a_workspace_after_a_first_run_is_listed(first_run):
    workspace = Workspace.open(first_run.workspace)
    (dataset,) = listing.list_datasets(workspace)
    assert (dataset.name, dataset.num_images, dataset.num_classes) == ("shapes", 24, 3)
    assert (dataset.num_train, dataset.num_test) == (21, 3)
    originals = [row for row in listing.list_features(workspace) if row.num_images == 24]
    assert {(row.backbone, row.recipe, row.view) for row in originals} == {(DEFAULT_BACKBONE, "exact", "original")}
    (model,) = listing.list_models(workspace)
    assert (model.model, model.serves, model.kind, model.mAP) == ("shapes@1", True, "head", None)
    assert 0 <= model.accuracy <= 1


@pytest.mark.heavy
def test_the_layers_of_a_backbone_are_json_with_the_keys_of_always(headstart):
    document = json.loads(headstart("inspect", DEFAULT_BACKBONE, "--json").stdout)
    assert set(document) == {
        *("schema_version", "backbone", "weights", "weights_sha256", "space", "recipe"),
        *("num_parameters", "taps", "layers"),
    }
    keys = {"name", "kind", "output_shape", "num_parameters", "arithmetic", "taps"}
    assert {frozenset(row) for row in document["layers"]} == {frozenset(keys)}
    assert {frozenset(tap) for tap in document["taps"]} == {frozenset({"name", "layer", "kind", "dim", "depth"})}
    assert sum(row["num_parameters"] for row in document["layers"]) == document["num_parameters"]
    assert {name for row in document["layers"] for name in row["taps"]} == {tap["name"] for tap in document["taps"]}
