"""`headstart verify` and `headstart gc`, as a user meets them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from flows.maintenance import checks as maintenance
from flows.onboarding import story as steps
from flows.progress import Quiet
from flows.requests import OnboardRequest
from pipeline.backbones.table import DEFAULT_BACKBONE, get_backbone
from pipeline.engine.canary import TOLERANCE
from pipeline.errors import UsageError
from pipeline.types import FeatureBlock
from storage.datasets.manifests import read_manifest
from storage.features.store import FeatureStore
from storage.jobs.folder import run_exclusively
from storage.maintenance.garbage import Limits
from storage.models.versions import get_model, list_models, new_version, promote
from storage.workspace import Workspace
from tests import factories


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # it may be a link to a file that others read
    path.write_bytes(data)


@pytest.fixture
def moved(again):
    """A first run that is ours to change, and whose dataset lies where its manifest says."""
    run_step(factories.scan, again)
    return again


def run_step(step, run):
    return step(OnboardRequest(str(run.folder), str(run.workspace), name="shapes"))


def snapshot(root):
    return {path: path.is_file() and path.read_bytes() for path in root.rglob("*")}


# ── options ──────────────────────────────────────────────────────────────────────────────────────


def test_spans_and_sizes_are_read_with_their_units():
    assert maintenance.parse_limits("30d", "1.5 GB", "36h") == Limits(36 * 3600, 30 * 86_400, 1_500_000_000)
    assert maintenance.parse_limits("2w", None, "90m") == Limits(5400, 14 * 86_400, None)
    assert maintenance.parse_bytes("20gb") == 20 * 10**9


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "30 days", "1e3d", "nand"])
def test_a_span_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match=r"such as 30d or 36h. Units: s, m, h, d, w"):
        maintenance.parse_seconds(text)


@pytest.mark.parametrize("arguments", [["gc", "--older-than", "soon"], ["gc", "--max-size", "much"]])
def test_an_option_that_cannot_be_read_exits_with_2_before_anything_is_opened(headstart, workspace, arguments):
    found = headstart(*arguments, "--workspace", workspace)
    assert (found.code, found.stdout) == (2, "")


@pytest.mark.parametrize("command", ["verify", "gc"])
def test_where_there_is_no_workspace_none_is_made(headstart, workspace, command):
    found = headstart(command, "--workspace", workspace)
    assert (found.code, "is no workspace" in found.stderr) == (4, True)
    assert not workspace.exists()


# ── verify ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.heavy
def test_a_first_run_leaves_everything_as_it_was_written(headstart, moved):
    found = headstart("verify", "--workspace", moved.workspace)
    assert found.code == 0, found.stderr
    assert "all is as it was written" in found.stdout
    assert f"rows {num_stored(moved)}, manifests 1, models 1" in found.stdout
    assert not found.loaded & {"tensorflow", "keras", "openvino", "sklearn", "prefect"}


@pytest.mark.heavy
def test_damage_is_told_a_line_each_set_right_and_exits_with_5(headstart, moved):
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
    repaired = run_step(steps.onboard, moved)
    assert repaired["features"]["num_computed"] == 24
    assert repaired["metrics"] == moved.document["metrics"]


@pytest.mark.heavy
def test_stored_rows_are_what_this_machine_computes(moved):
    first = maintenance.verify(str(moved.workspace), Quiet(), num_recomputed=20, seed=3)
    assert first["findings"] == []
    recomputed = first["recomputed"]
    assert (recomputed["num_rows"], recomputed["num_stored"], recomputed["seed"]) == (20, num_stored(moved), 3)
    assert {row["tap"] for row in recomputed["taps"]} >= {tap.name for tap in get_backbone(DEFAULT_BACKBONE).taps}
    assert 0 < max(row["largest_difference"] for row in recomputed["taps"]) < TOLERANCE / 2
    assert maintenance.verify(str(moved.workspace), Quiet(), num_recomputed=20, seed=3) == first


def num_stored(run):
    """Features of every picture, and moments of those that are trained on."""
    manifest = read_manifest(Workspace.open(run.workspace), "shapes")
    return len(manifest.images) + len(manifest.of_split("train"))


@pytest.mark.heavy
def test_a_row_that_this_machine_computes_otherwise_is_a_finding(moved):
    workspace, space = Workspace.open(moved.workspace), get_backbone(DEFAULT_BACKBONE).space()
    images = read_manifest(workspace, "shapes").images
    store = FeatureStore(workspace, space)
    digests = tuple(image.digest for image in images)
    taps = {tap.name: store.read(digests, tap.name) for tap in space.taps}
    taps["top"][5] *= np.float32(1 + 2 * TOLERANCE)
    for _, path in workspace.shards(space.id):
        path.unlink()
    store.missing([])
    with FeatureStore(workspace, space) as other:
        other.append(FeatureBlock(digests, taps))
    document = maintenance.verify(str(moved.workspace), Quiet(), num_recomputed=100)
    (finding,) = document["findings"]
    assert (finding["what"], finding["path"]) == ("row", str(moved.folder / images[5].path))
    assert "'top'" in finding["problem"]


@pytest.mark.heavy
def test_only_pictures_that_still_are_what_they_were_are_recomputed(moved):
    manifest = read_manifest(Workspace.open(moved.workspace), "shapes")
    kept, changed, *gone = manifest.of_split("test")
    shutil.copyfile(moved.folder / kept.path, moved.folder / changed.path)
    for image in (*gone, *manifest.of_split("train", "val")):
        (moved.folder / image.path).unlink()
    document = maintenance.verify(str(moved.workspace), Quiet(), num_recomputed=100)
    assert document["findings"] == []
    assert document["recomputed"]["num_rows"] == 1


# ── gc ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.heavy
def test_after_a_first_run_everything_is_needed(headstart, moved):
    before = snapshot(moved.workspace)
    found = headstart("gc", "--grace", "0s", "--delete", "--workspace", moved.workspace)
    assert (found.code, "everything is needed" in found.stdout) == (0, True), found.stderr
    assert snapshot(moved.workspace) == before
    assert not found.loaded & {"tensorflow", "keras", "openvino", "sklearn", "prefect"}


@pytest.mark.heavy
def test_what_nothing_needs_is_named_first_and_removed_when_asked(headstart, moved):
    workspace = ("--workspace", moved.workspace)
    shutil.rmtree(moved.workspace / "models")
    for listing in (moved.workspace / "engines").glob("*/classifier.xml"):
        shutil.rmtree(listing.parent)  # of a model that another test predicted with
    for path in sorted(moved.folder.glob("class*/*"))[::2]:
        path.unlink()
    run_step(factories.scan, moved)
    before = snapshot(moved.workspace)
    young = headstart("gc", *workspace)
    assert (young.code, "too young to go" in young.stdout) == (0, True)
    foreseen = json.loads(headstart("gc", "--grace", "0s", "--json", *workspace).stdout)
    assert (foreseen["deleted"], {item["kind"] for item in foreseen["garbage"]}) == (False, {"shard", "manifest"})
    assert snapshot(moved.workspace) == before
    removed = json.loads(headstart("gc", "--grace", "0s", "--delete", "--json", *workspace).stdout)
    assert removed == {**foreseen, "deleted": True}
    assert headstart("verify", *workspace).code == 0
    document = run_step(steps.onboard, moved)
    assert (document["features"]["num_images"], document["features"]["num_computed"]) == (12, 0)


@pytest.mark.heavy
def test_versions_that_do_not_serve_go_where_a_number_to_keep_is_given(headstart, moved):
    """Heads 1 to 5, networks 6 and 7: 2 serves, 1 did before, a job starts from 3."""
    workspace = Workspace.open(moved.workspace)
    record = get_model(workspace, "shapes@1").record
    for number in range(2, 8):
        with new_version(workspace, "shapes") as version:
            (version.folder / "model.keras").write_bytes(b"%d" % number)
            version.record = replace(record, finetune=factories.a_finetuning() if number > 5 else None)
    promote(workspace, "shapes", 2, "It is better.")
    with run_exclusively(workspace, "job", {"dataset": "shapes", "head_version": 3, **asked_of(record)}):
        pass

    arguments = ("gc", "--grace", "0s", "--json", "--workspace", moved.workspace)
    assert models_in(headstart(*arguments)) == []
    assert models_in(headstart(*arguments, "--keep-versions", "2")) == []
    removed = headstart(*arguments, "--keep-versions", "1", "--delete")
    assert models_in(removed) == ["models/shapes/4", "models/shapes/6"]
    assert [ref.version for ref in list_models(workspace)] == [1, 2, 3, 5, 7]
    assert models_in(headstart(*arguments, "--keep-versions", "1")) == []
    assert headstart("verify", "--workspace", moved.workspace).code == 0


def asked_of(record):
    return {"fingerprint": record.data.fingerprint, "case": 3, "epochs": 1, "num_train": 1}


def models_in(found):
    assert found.code == 0, found.stderr
    return sorted(item["path"] for item in json.loads(found.stdout)["garbage"] if item["kind"] == "model")
