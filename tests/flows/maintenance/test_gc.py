"""`headstart gc`, as a user meets it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from storage.jobs.folder import run_exclusively
from storage.models.serving import get_model, promote
from storage.models.versions import list_models
from storage.workspace import Workspace
from tests import factories
from tests.flows.maintenance.conftest import run_step


def snapshot(root):
    return {path: path.is_file() and path.read_bytes() for path in root.rglob("*")}


@pytest.mark.parametrize("arguments", [["gc", "--older-than", "soon"], ["gc", "--max-size", "much"]])
def test_an_option_that_cannot_be_read_exits_with_2_before_anything_is_opened(headstart, workspace, arguments):
    found = headstart(*arguments, "--workspace", workspace)
    assert (found.code, found.stdout) == (2, "")


@pytest.mark.parametrize("command", ["verify", "gc"])
def test_where_there_is_no_workspace_none_is_made(headstart, workspace, command):
    found = headstart(command, "--workspace", workspace)
    assert (found.code, "is no workspace" in found.stderr) == (4, True)
    assert not workspace.exists()


@pytest.mark.heavy
def test_after_a_first_run_everything_is_needed(headstart, moved):
    before = snapshot(moved.workspace)
    found = headstart("gc", "--grace", "0s", "--delete", "--workspace", moved.workspace)
    assert (found.code, "Nothing to remove." in found.stdout) == (0, True), found.stderr
    assert snapshot(moved.workspace) == before
    assert not found.loaded & {"tensorflow", "keras", "openvino", "sklearn", "prefect"}


@pytest.mark.heavy
def test_what_nothing_needs_is_named_first_and_removed_when_asked(headstart, moved):
    workspace = ("--workspace", moved.workspace)
    shutil.rmtree(moved.workspace / "models")
    for network in (moved.workspace / "engines").glob("*/classifier.xml"):
        shutil.rmtree(network.parent)  # of a model that another test predicted with
    for path in sorted(moved.folder.glob("class*/*"))[::2]:
        path.unlink()
    run_step(factories.scan, moved)
    before = snapshot(moved.workspace)
    young = headstart("gc", *workspace)
    assert (young.code, "Nothing to remove." in young.stdout) == (0, True)
    foreseen = json.loads(headstart("gc", "--grace", "0s", "--json", *workspace).stdout)
    assert (foreseen["deleted"], {item["kind"] for item in foreseen["garbage"]}) == (False, {"shard", "manifest"})
    assert set(foreseen) == {
        *("schema_version", "workspace", "deleted", "num_rows", "num_bytes", "garbage", "left_alone")
    }
    keys = {"kind", "path", "num_rows", "num_bytes", "written", "reason"}
    assert [set(item) for item in foreseen["garbage"]] == [keys] * len(foreseen["garbage"])
    shown = headstart("gc", "--grace", "0s", *workspace).stdout
    assert "Nothing was removed; run again with --delete." in shown
    assert len([line for line in shown.splitlines() if line.startswith(("shard", "manifest"))]) == len(
        {(item["kind"], item["reason"]) for item in foreseen["garbage"]}
    )
    assert snapshot(moved.workspace) == before
    removed = json.loads(headstart("gc", "--grace", "0s", "--delete", "--json", *workspace).stdout)
    assert removed == {**foreseen, "deleted": True}
    assert headstart("verify", *workspace).code == 0
    document = run_step(factories.onboard, moved)
    assert (document["features"]["num_images"], document["features"]["num_computed"]) == (12, 0)


@pytest.mark.heavy
def test_versions_that_do_not_serve_go_where_a_number_to_keep_is_given(headstart, moved):
    """Heads 1 to 5, networks 6 and 7: 2 serves, 1 did before, a job starts from 3."""
    workspace = Workspace.open(moved.workspace)
    record = get_model(workspace, "shapes@1").record
    for number in range(2, 8):
        finetune = factories.a_finetuning() if number > 5 else None
        factories.save_model(workspace, replace(record, finetune=finetune), "shapes", b"%d" % number)
    promote(workspace, "shapes", 2, "It is better.")
    asked = factories.a_job_asked(fingerprint=record.data.fingerprint, head_version=3)
    with run_exclusively(workspace, "job", asked):
        pass

    arguments = ("gc", "--grace", "0s", "--json", "--workspace", moved.workspace)
    assert models_in(headstart(*arguments)) == []
    assert models_in(headstart(*arguments, "--keep-versions", "2")) == []
    removed = headstart(*arguments, "--keep-versions", "1", "--delete")
    assert models_in(removed) == ["models/shapes/4", "models/shapes/6"]
    assert [ref.version for ref in list_models(workspace)] == [1, 2, 3, 5, 7]
    assert models_in(headstart(*arguments, "--keep-versions", "1")) == []
    assert headstart("verify", "--workspace", moved.workspace).code == 0


def models_in(found):
    assert found.code == 0, found.stderr
    return sorted(item["path"] for item in json.loads(found.stdout)["garbage"] if item["kind"] == "model")
