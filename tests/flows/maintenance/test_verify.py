"""`headstart verify`, as a user meets it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from flows.maintenance.verify import verify
from flows.progress import Quiet
from flows.requests import VerifyRequest
from pipeline.backbones.table import DEFAULT_BACKBONE, get_backbone
from pipeline.engine.canary import TOLERANCE
from pipeline.jsonable import to_json
from pipeline.types import FeatureBlock
from storage.datasets.manifests import read_manifest
from storage.features.writer import FeatureWriter
from storage.workspace import Workspace
from tests import factories
from tests.flows.maintenance.conftest import run_step


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # it may be a link to a file that others read
    path.write_bytes(data)


@pytest.mark.heavy
def test_a_first_run_leaves_everything_as_it_was_written(headstart, moved):
    found = headstart("verify", "--workspace", moved.workspace)
    assert found.code == 0, found.stderr
    assert "No damage found." in found.stdout
    assert f"rows {num_stored(moved)}, manifests 1, models 1" in found.stdout
    assert not found.loaded & {"tensorflow", "keras", "openvino", "sklearn", "prefect"}


@pytest.mark.heavy
def test_damage_has_a_line_each_is_repaired_and_exits_with_5(headstart, moved):
    space = get_backbone(DEFAULT_BACKBONE).space()
    ((name, path),) = Workspace.open(moved.workspace).shards(space.id)
    flip(path)
    found = headstart("verify", "--json", "--workspace", moved.workspace)
    document = json.loads(found.stdout)
    (finding,) = document["findings"]
    assert found.code == 5
    assert (finding["what"], name in finding["path"]) == ("shard", True)
    assert "headstart onboard" in finding["next"]
    assert headstart("verify", "--workspace", moved.workspace).code == 0
    repaired = run_step(factories.onboard, moved)
    assert repaired["features"]["num_computed"] == 24
    assert repaired["metrics"] == moved.document["metrics"]


@pytest.mark.heavy
def test_stored_rows_are_what_this_machine_computes(moved):
    first = verify(VerifyRequest(str(moved.workspace), recompute=20, seed=3), Quiet())
    assert first.findings == ()
    recomputed = first.recomputed
    assert (recomputed.num_rows, recomputed.num_stored, recomputed.seed) == (20, num_stored(moved), 3)
    assert {row.tap for row in recomputed.taps} >= {tap.name for tap in get_backbone(DEFAULT_BACKBONE).taps}
    assert 0 < max(row.largest_difference for row in recomputed.taps) < TOLERANCE / 2
    document = to_json(first)
    assert set(document) == {"workspace", "checked", "findings", "recomputed"}
    assert set(document["recomputed"]) == {"seed", "tolerance", "num_rows", "num_stored", "taps"}
    keys = {"space", "backbone", "view", "tap", "num_rows", "largest_difference"}
    assert [set(row) for row in document["recomputed"]["taps"]] == [keys] * len(recomputed.taps)
    assert verify(VerifyRequest(str(moved.workspace), recompute=20, seed=3), Quiet()) == first


def num_stored(run):
    """Features of every picture, and moments of those that are trained on."""
    manifest = read_manifest(Workspace.open(run.workspace), "shapes")
    return len(manifest.images) + len(manifest.of_split("train"))


@pytest.mark.heavy
def test_a_row_that_this_machine_computes_otherwise_is_a_finding(moved):
    workspace, space = Workspace.open(moved.workspace), get_backbone(DEFAULT_BACKBONE).space()
    images = read_manifest(workspace, "shapes").images
    store = FeatureWriter(workspace, space)
    digests = tuple(image.digest for image in images)
    taps = {tap.name: store.read(digests, tap.name) for tap in space.taps}
    taps["top"][5] *= np.float32(1 + 2 * TOLERANCE)
    for _, path in workspace.shards(space.id):
        path.unlink()
    store.missing([])
    with FeatureWriter(workspace, space) as other:
        other.append(FeatureBlock(digests, taps))
    (finding,) = verify(VerifyRequest(str(moved.workspace), recompute=100), Quiet()).findings
    assert (finding.what, finding.path) == ("row", str(moved.folder / images[5].path))
    assert "'top'" in finding.problem


@pytest.mark.heavy
def test_only_pictures_that_still_are_what_they_were_are_recomputed(moved):
    manifest = read_manifest(Workspace.open(moved.workspace), "shapes")
    kept, changed, *gone = manifest.of_split("test")
    shutil.copyfile(moved.folder / kept.path, moved.folder / changed.path)
    for image in (*gone, *manifest.of_split("train", "val")):
        (moved.folder / image.path).unlink()
    result = verify(VerifyRequest(str(moved.workspace), recompute=100), Quiet())
    assert result.findings == ()
    assert result.recomputed.num_rows == 1
