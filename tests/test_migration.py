"""A workspace of the revision before the rooms opens: same predictions, nothing is computed or trained again."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import factories

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).resolve().parent.parent
BEFORE = "8582e0e1bb544f1e2c6fb17fad6cbe37e5de927b"
TOLERANCE = 1e-6


def run_before(source, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        cwd=source,
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows_of(jsonl):
    return [json.loads(line) for line in jsonl.splitlines()]


@pytest.fixture(scope="module")
def before(once):
    """What the revision before made of three classes of generated pictures: `folder`, `workspace`, what it said."""
    known = subprocess.run(
        ["git", "cat-file", "-e", f"{BEFORE}^{{commit}}"], cwd=ROOT, capture_output=True, check=False
    )
    if known.returncode:
        pytest.skip("the revision before is not in this checkout's history")

    def build(root):
        archive = root / "before.tar"
        subprocess.run(["git", "archive", "--output", archive, BEFORE], cwd=ROOT, check=True)
        with tarfile.open(archive) as opened:
            opened.extractall(root / "source", filter="data")
        folder, workspace = factories.write_dataset(root / "shapes", per_class=12), root / "workspace"
        factories.age(folder)
        place = ("--workspace", workspace)
        pictures = sorted(folder.rglob("*.*g"))[::5]
        onboarded = json.loads(run_before(root / "source", "onboard", folder, "--size", "64", "--json", *place))
        predicted = rows_of(run_before(root / "source", "predict", "shapes", *pictures, "--jsonl", *place))
        return SimpleNamespace(
            folder=folder, workspace=workspace, pictures=pictures, onboarded=onboarded, predicted=predicted
        )

    return once("before", build)


@pytest.fixture
def now(headstart, before):
    """Run a command of today on that workspace; returns what it prints."""

    def run(*arguments):
        done = headstart(*arguments, "--workspace", before.workspace)
        assert done.code == 0, done.stderr
        return done.stdout

    return run


def test_its_model_predicts_the_same_probabilities(before, now):
    found = rows_of(now("predict", "shapes", *before.pictures, "--jsonl"))
    assert [row["path"] for row in found] == [row["path"] for row in before.predicted]
    for row, wanted in zip(found, before.predicted, strict=True):
        assert dict(row["top"]) == pytest.approx(dict(wanted["top"]), abs=TOLERANCE)


def test_onboarding_it_again_computes_nothing_and_trains_nothing(before, now):
    found = json.loads(now("onboard", before.folder, "--size", "64", "--json"))
    assert before.onboarded["features"]["num_computed"] > 0
    assert found["features"]["num_computed"] == 0
    assert found["model"] == before.onboarded["model"]  # no second version
    assert found["metrics"] == before.onboarded["metrics"]


def test_it_is_listed_shown_verified_and_refreshed(before, now):
    version = before.onboarded["model"]["version"]
    listed = json.loads(now("models", "--json"))
    assert [row["model"] for row in listed["models"]] == [f"shapes@{version}"]
    metrics = json.loads(now("show", "shapes", "--json"))["metrics"]
    assert {key: metrics[key] for key in before.onboarded["metrics"]} == before.onboarded["metrics"]
    assert "# shapes" in now("show", "shapes")
    assert json.loads(now("verify", "--json"))["findings"] == []
    (row,) = json.loads(now("refresh", "--json"))["datasets"]
    assert (row["num_computed"], row["retrained"], row["version"], row["error"]) == (0, False, version, None)
