"""Refreshing real, small datasets, and which version serves afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from flows.documents import to_document
from flows.onboarding.refresh import refresh
from flows.onboarding.story import PLAIN
from flows.requests import OnboardRequest, RefreshRequest
from flows.versions import promote as promoting
from flows.versions.promote import compare_saved, promote_by_hand
from pipeline.errors import CancelledError, NotFoundError
from storage.models.serving import find_serving, get_model
from storage.models.versions import list_models
from storage.workspace import Workspace
from tests import factories
from tests.conftest import ROOT

pytestmark = pytest.mark.heavy

PER_CLASS = 20


@pytest.fixture(scope="module")
def onboarded(small, tmp_path_factory):
    """A dataset of 3 classes of 20 pictures, onboarded at 64 pixels: to be copied."""
    root = tmp_path_factory.mktemp("onboarded")
    folder, workspace = factories.write_dataset(root / "shapes", per_class=PER_CLASS), root / "workspace"
    shutil.copytree(small.workspace / "engines", workspace / "engines")
    factories.age(folder)
    document = factories.onboard(OnboardRequest(str(folder), str(workspace), size=64))
    return SimpleNamespace(folder=folder, workspace=workspace, document=document)


@pytest.fixture
def known(onboarded, tmp_path):
    """Copies of the dataset and its workspace, registered as being there: `folder`, `workspace`."""
    folder, workspace = tmp_path / "shapes", tmp_path / "workspace"
    shutil.copytree(onboarded.folder, folder)
    shutil.copytree(onboarded.workspace, workspace)
    document = factories.onboard(OnboardRequest(str(folder), str(workspace), "shapes", size=64))
    assert (document["model"]["version"], document["trained"]) == (1, False)
    return SimpleNamespace(folder=folder, workspace=workspace)


def refreshed(place, *names, **options):
    document = to_document(refresh(RefreshRequest(str(place.workspace), names, **options)))
    json.dumps(document, allow_nan=False)
    return document["datasets"]


def versions(place):
    return [ref.version for ref in list_models(Workspace.open(place.workspace)) if ref.name == "shapes"]


def serving(place):
    return get_model(Workspace.open(place.workspace), "shapes").version


def add(place, num, first=500):
    for number in range(num):
        label = number % 3
        path = place.folder / f"class{label}" / f"new {first + number}.png"
        factories.write_photo(path, first + number, colour=factories.COLOURS[label])


def shuffle_labels(place):
    """Spread the pictures of each class evenly over all classes: there is nothing to learn from that."""
    moves = [
        (path, place.folder / f"class{(label + number) % 3}" / f"moved {label} {path.name}")
        for label in range(3)
        for number, path in enumerate(sorted((place.folder / f"class{label}").iterdir()))
    ]
    for path, target in moves:
        path.rename(target)


# ── what a night does ────────────────────────────────────────────────────────────────────────────


def test_the_first_version_serves_and_says_so(onboarded):
    found = onboarded.document["serving"]
    assert found == {"version": 1, "promoted": True, "reason": "No other version served before it.", "gate": None}
    assert onboarded.document["trained"]


def test_where_nothing_changed_nothing_is_loaded_and_nothing_is_done(known, headstart):
    before = find_serving(Workspace.open(known.workspace), "shapes")
    found = headstart("refresh", "--json", "--workspace", known.workspace)
    (row,) = json.loads(found.stdout)["datasets"]
    assert (found.code, row["retrained"], row["promoted"], row["version"], row["num_computed"]) == (
        0,
        False,
        False,
        1,
        0,
    )
    assert row["reasons"] == ["No training picture changed: the head stays."]
    again = headstart("onboard", known.folder, "--size", "64", "--json", "--workspace", known.workspace)
    assert json.loads(again.stdout)["serving"] == {
        "version": 1,
        "promoted": False,
        "reason": before.reason,
        "gate": None,
    }
    for run in (found, again):
        assert not run.loaded & {"tensorflow", "keras", "openvino", "sklearn", "scipy", "h5py", "PIL", "prefect"}
    assert find_serving(Workspace.open(known.workspace), "shapes") == before


def test_a_picture_more_is_computed_and_trains_nothing(known):
    add(known, 1)
    (row,) = refreshed(known)
    assert (row["num_added"], row["num_computed"], row["retrained"], row["version"]) == (1, 1, False, 1)
    assert "less than 5%: the head stays" in row["reasons"][0]
    assert refreshed(known)[0]["num_computed"] == 0
    assert versions(known) == [1]


def test_force_trains_however_little_changed(known):
    add(known, 1)
    (row,) = refreshed(known, force=True)
    assert (row["num_computed"], row["retrained"], row["promoted"], row["version"]) == (1, True, True, 2)


def test_a_fifth_more_pictures_train_a_version_that_serves(known):
    add(known, 12)
    (row,) = refreshed(known)
    assert (row["num_computed"], row["retrained"], row["promoted"], row["version"]) == (12, True, True, 2)
    assert 10 <= row["num_added"] <= 12  # the rest went to the test split
    assert row["gate"]["passed"]
    assert "It is not worse by more than 1 standard error" in row["reasons"][-1]
    assert (versions(known), serving(known)) == ([1, 2], 2)
    found = find_serving(Workspace.open(known.workspace), "shapes")
    assert (found.previous, found.gate, found.reason) == (1, row["gate"], row["reasons"][-1])
    (row,) = refreshed(known)
    assert (row["retrained"], row["promoted"], row["version"]) == (False, False, 2)


def test_small_changes_add_up(known):
    for first in (500, 600):
        add(known, 2, first)
        rows = refreshed(known)
    assert rows[0]["retrained"]


def test_a_class_that_came_is_one_that_the_old_version_gets_wrong(known):
    for number in range(4):
        factories.write_photo(known.folder / "other" / f"{number}.png", 700 + number, colour=(90, 30, 90))
    (row,) = refreshed(known)
    assert (row["classes_added"], row["promoted"], row["version"]) == (["other"], True, 2)
    assert row["gate"]["num_gained"] > 0


# ── what does not serve ──────────────────────────────────────────────────────────────────────────


def test_a_head_trained_on_garbage_does_not_serve_and_is_not_trained_again(known, monkeypatch):
    shuffle_labels(known)
    (row,) = refreshed(known)
    assert (row["retrained"], row["promoted"], row["version"]) == (True, False, 1)
    assert not row["gate"]["passed"]
    assert (versions(known), serving(known)) == ([1, 2], 1)
    monkeypatch.setattr(promoting, "compare_saved", None)  # it would fail
    (row,) = refreshed(known)
    assert (row["retrained"], row["promoted"], row["version"], row["error"]) == (False, False, 1, None)
    again = factories.onboard(OnboardRequest(str(known.folder), str(known.workspace), size=64))
    assert (again["trained"], again["model"]["version"]) == (False, 2)
    assert again["serving"]["version"] == 1
    assert not again["serving"]["gate"]["passed"]
    assert versions(known) == [1, 2]


def test_labels_that_are_mended_bring_the_first_version_back(known):
    kept = {path: path.read_bytes() for path in known.folder.rglob("*.*")}
    add(known, 12)
    assert refreshed(known)[0]["version"] == 2
    shutil.rmtree(known.folder)
    for path, data in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (row,) = refreshed(known)
    assert row["trained_version"] is None
    assert (row["num_removed"] > 0, row["retrained"], versions(known)) == (True, False, [1, 2])  # it is found
    assert (row["promoted"], row["version"], row["gate"]["passed"]) == (True, 1, True)


def test_other_options_on_the_same_data_are_compared_once(known, monkeypatch):
    def run(size):
        return factories.onboard(OnboardRequest(str(known.folder), str(known.workspace), size=size))["serving"]

    first = run(96)
    assert first["gate"]["num_images"] > 0
    monkeypatch.setattr(promoting, "compare_saved", None)  # it would fail
    assert [run(size)["version"] for size in (64, 96, 64)] == [first["version"]] * 3


def test_what_a_person_chose_stays_until_something_new_is_trained(known, headstart):
    add(known, 12)
    assert refreshed(known)[0]["version"] == 2
    found = headstart("promote", "shapes@1", "--workspace", known.workspace)
    assert (found.code, found.stdout.strip()) == (0, "shapes is version 1 now; before it was version 2")
    assert not found.loaded & {"tensorflow", "keras", "openvino", "sklearn", "h5py", "prefect"}
    assert refreshed(known)[0]["version"] == 1
    again = factories.onboard(OnboardRequest(str(known.folder), str(known.workspace), size=64))
    assert (again["model"]["version"], again["serving"]["version"], again["serving"]["promoted"]) == (2, 1, False)
    listed = json.loads(headstart("models", "--json", "--workspace", known.workspace).stdout)["models"]
    assert {row["model"]: row["serves"] for row in listed} == {"shapes@1": True, "shapes@2": False}
    add(known, 12, 800)
    assert refreshed(known)[0]["version"] == 3


def test_a_choice_made_while_versions_are_compared_is_not_overruled(known, monkeypatch):
    def compare(workspace, challenger, opponent, head):
        promote_by_hand(str(known.workspace), "shapes@1")
        return compare_saved(workspace, challenger, opponent, head)

    add(known, 12)
    assert refreshed(known)[0]["version"] == 2
    monkeypatch.setattr(promoting, "compare_saved", compare)
    add(known, 12, 800)
    (row,) = refreshed(known)
    assert (row["retrained"], row["promoted"], row["version"]) == (True, False, 1)
    assert versions(known) == [1, 2, 3]


def test_promoting_needs_a_version_that_is_whole(known, headstart):
    def code(model):
        return headstart("promote", model, "--workspace", known.workspace).code

    assert (code("shapes"), code("shapes@7"), code("cars@1")) == (2, 4, 4)
    (known.workspace / "models/shapes/1/report.md").write_text("other")
    assert code("shapes@1") == 5


# ── what cannot be compared ──────────────────────────────────────────────────────────────────────


def test_what_cannot_be_compared_serves_and_says_why(known):
    (manifest,) = known.workspace.glob("datasets/shapes/*.jsonl")
    manifest.unlink()
    add(known, 12)
    (row,) = refreshed(known)
    assert (row["retrained"], row["promoted"], row["version"], row["gate"]) == (True, True, 2, None)
    assert (
        "cannot be compared with version 1. The data that version 1 was trained on are not known" in row["reasons"][-1]
    )


def test_a_head_of_another_size_is_compared_on_features_of_both(known):
    document = factories.onboard(OnboardRequest(str(known.folder), str(known.workspace), "shapes", size=96))
    assert document["serving"]["gate"]["num_images"] == document["size"]["num_train"]
    assert document["trained"]


def test_a_version_that_was_saved_but_not_judged_is_judged_by_the_next_run(known, monkeypatch):
    add(known, 12)
    with monkeypatch.context() as killed:
        killed.setattr("flows.onboarding.training.settle", None)
        assert refreshed(known)[0]["error"]["kind"] == "TypeError"
    assert (versions(known), serving(known)) == ([1, 2], 1)
    document = factories.onboard(OnboardRequest(str(known.folder), str(known.workspace), size=64))
    assert (document["trained"], document["serving"]["promoted"], serving(known)) == (False, True, 2)


# ── several ──────────────────────────────────────────────────────────────────────────────────────


def test_one_dataset_that_is_gone_keeps_no_other_from_its_refresh(known, headstart):
    cars = factories.write_dataset(known.folder.parent / "cars", first=900)
    factories.onboard(OnboardRequest(str(cars), str(known.workspace), size=64))
    shutil.rmtree(cars)
    add(known, 12)
    found = headstart("refresh", "--json", "--workspace", known.workspace)
    gone, row = json.loads(found.stdout)["datasets"]
    assert found.code == 3
    assert (gone["name"], gone["error"]["kind"], gone["version"]) == ("cars", "NotFoundError", None)
    assert str(cars) in gone["error"]["message"]
    assert (row["error"], row["retrained"], row["version"]) == (None, True, 2)
    only = headstart("refresh", "shapes", "--workspace", known.workspace)
    assert (only.code, "cars" in only.stdout) == (0, False)


def test_a_refresh_that_is_cancelled_begins_no_other_dataset(known):
    cars = factories.write_dataset(known.folder.parent / "cars", first=900)
    factories.onboard(OnboardRequest(str(cars), str(known.workspace), size=64))
    begun = []

    def cancelled(workspace, request):
        begun.append(request.name)
        raise CancelledError("The run was cancelled.")

    with pytest.raises(CancelledError):
        refresh(RefreshRequest(str(known.workspace)), steps=replace(PLAIN, scan=cancelled))
    assert begun == ["cars"]


def test_a_dataset_that_was_only_scanned_is_named(known, tiny_dataset):
    factories.scan(OnboardRequest(str(tiny_dataset("seen")), str(known.workspace)))
    row, _ = refreshed(known)
    assert (row["name"], row["error"], row["retrained"]) == ("seen", None, False)
    assert "headstart onboard DIR --name seen" in row["reasons"][0]


def test_a_damaged_registration_is_an_error_of_its_dataset(known):
    (known.workspace / "datasets/shapes/onboarded.json").write_text("{")
    (row,) = refreshed(known)
    assert row["error"]["kind"] == "DamagedError"
    assert "Onboard it once more" in row["error"]["message"]


def test_a_name_that_is_not_known_is_said_before_anything_is_done(known):
    with pytest.raises(NotFoundError, match=r"no dataset 'boats'\. Known: shapes"):
        refreshed(known, "shapes", "boats")


def test_two_that_onboard_the_same_at_once_train_one_version(onboarded, tmp_path):
    folder, workspace = factories.write_dataset(tmp_path / "boats", first=300), tmp_path / "workspace"
    shutil.copytree(onboarded.workspace / "engines", workspace / "engines")
    command = [
        sys.executable,
        "-m",
        "flows.cli.app",
        "onboard",
        str(folder),
        "--size",
        "64",
        "--json",
        "-w",
        str(workspace),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    answers = [json.loads(process.communicate()[0]) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert [answer["model"]["version"] for answer in answers] == [1, 1]
    assert sorted(answer["trained"] for answer in answers) == [False, True]
    assert os.listdir(workspace / "models" / "boats" / "1")
    assert sorted(path.name for path in (workspace / "models" / "boats").iterdir()) == ["1", "serving.json"]
