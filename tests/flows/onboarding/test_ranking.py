"""`--backbone auto`: what is here is compared, within its minutes, once."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest

from flows.onboarding import planning, ranking
from flows.onboarding.ranking import available_backbones, choose_backbone
from flows.requests import OnboardRequest
from pipeline.backbones.table import APPLICATIONS, AUTO, BACKBONES, DEFAULT_BACKBONE, check_choice, keras_file
from pipeline.decision.nouns import RankedBackbone, Similarity
from pipeline.errors import DataError, NotFoundError, UnknownNameError, UsageError
from pipeline.jsonable import from_json
from storage.workspace import Workspace
from tests import factories

EXACT = "pillow-13"


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


@pytest.fixture
def only_lite0(monkeypatch):
    monkeypatch.setattr(ranking, "is_installed", lambda name: name == DEFAULT_BACKBONE)


def dataset_of(place):
    request = OnboardRequest(str(place.folder), str(place.workspace), "shapes")
    return factories.scan(request)


def test_the_embedded_backbone_is_first_of_those_that_are_here():
    assert available_backbones() == list(BACKBONES)


def test_a_wheel_that_is_not_installed_is_not_here(only_lite0):
    assert available_backbones() == [DEFAULT_BACKBONE]


def test_what_keras_has_downloaded_before_is_here_and_the_cheap_come_first(tmp_path, only_lite0):
    folder = tmp_path / "keras" / "models"
    folder.mkdir(parents=True)
    (folder / keras_file("resnet50")).write_bytes(bytes(2000))
    (folder / keras_file("mobilenet")).write_bytes(bytes(1000))
    (folder / "half.h5.part").touch()
    assert available_backbones() == [DEFAULT_BACKBONE, "mobilenet", "resnet50"]


def test_every_network_has_a_file_of_its_own():
    assert len({keras_file(name) for name in APPLICATIONS}) == len(APPLICATIONS)


def test_auto_takes_neither_weights_nor_a_size():
    check_choice(AUTO, None)
    for options in ({"weights": "none"}, {"weights": None, "size": 96}):
        with pytest.raises(UsageError, match="at their own size"):
            check_choice(AUTO, **options)
    with pytest.raises(UnknownNameError):
        check_choice("automatic", None)


@pytest.fixture
def scripted(monkeypatch, again):
    """Rank without networks: `tried` are the names, `answers` what comes of each."""
    answers = {DEFAULT_BACKBONE: 0.3}
    tried = []

    def attempt(workspace, manifest, sample, name, decoder, deadline):
        tried.append((name, deadline == math.inf))
        if isinstance(answers[name], Exception):
            raise answers[name]
        return RankedBackbone(name, answers[name], 1.0)

    monkeypatch.setattr(ranking, "_try", attempt)
    monkeypatch.setattr(ranking, "available_backbones", lambda: list(answers))

    def run(minutes=2.0):
        return choose_backbone(Workspace.open(again.workspace), dataset_of(again), EXACT, minutes)

    run.answers, run.tried = answers, tried
    return run


@pytest.mark.heavy
def test_the_least_error_is_chosen_and_remembered(scripted):
    scripted.answers["efficientnet_lite1"] = 0.2
    spec, rows = scripted()
    assert spec.name == "efficientnet_lite1"
    assert [row.backbone for row in rows] == ["efficientnet_lite1", DEFAULT_BACKBONE]
    assert scripted.tried == [(DEFAULT_BACKBONE, True), ("efficientnet_lite1", False)]
    assert scripted() == (spec, rows)
    assert len(scripted.tried) == 2  # nothing was tried again


@pytest.mark.heavy
def test_other_minutes_or_another_network_that_is_here_is_another_question(scripted):
    scripted()
    scripted(minutes=3.0)
    scripted.answers["efficientnet_lite1"] = 0.2
    assert scripted()[0].name == "efficientnet_lite1"
    assert len(scripted.tried) == 4


@pytest.mark.heavy
def test_a_network_that_cannot_be_had_is_told_and_costs_nothing_else(scripted):
    scripted.answers["resnet50"] = NotFoundError("The weights could not be downloaded.")
    spec, rows = scripted()
    assert spec.name == DEFAULT_BACKBONE
    assert rows[-1] == RankedBackbone("resnet50", why_not="The weights could not be downloaded")


@pytest.mark.heavy
def test_a_dataset_that_not_even_the_embedded_network_reads_is_an_error(scripted):
    scripted.answers[DEFAULT_BACKBONE] = DataError("None of them can be decoded.")
    with pytest.raises(DataError):
        scripted()


@pytest.mark.heavy
def test_without_minutes_only_the_embedded_backbone_is_tried(again):
    spec, rows = choose_backbone(Workspace.open(again.workspace), dataset_of(again), EXACT, 0.0)
    assert spec.name == DEFAULT_BACKBONE
    assert [row.why_not for row in rows] == ["", "no time was left", "no time was left"]
    assert 0 <= rows[0].error < 0.5


@pytest.mark.heavy
def test_little_time_compiles_nothing_more(again, monkeypatch):
    monkeypatch.setattr(ranking, "COMPILE_SECONDS", 1e9)
    _, rows = choose_backbone(Workspace.open(again.workspace), dataset_of(again), EXACT, 5.0)
    assert {row.why_not for row in rows[1:]} == {"no time was left to compile it"}


@pytest.mark.heavy
def test_a_network_that_turns_out_slow_is_left_after_a_few_pictures(again, monkeypatch):
    place = Workspace.open(again.workspace)
    shutil.rmtree(again.workspace / "spaces")
    (again.workspace / "catalog.db").unlink()
    now = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(ranking.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(ranking, "NUM_PROBED", 4)
    from storage.datasets.manifests import read_manifest

    dataset = dataset_of(again)
    manifest = read_manifest(place, dataset.name, dataset.fingerprint)
    row = ranking._try(place, manifest, manifest.of_split("train"), DEFAULT_BACKBONE, EXACT, 2500.0)
    assert row == RankedBackbone(DEFAULT_BACKBONE, why_not="at 0 pictures a second it is slow")


@pytest.mark.heavy
def test_a_run_may_leave_the_backbone_open(again, only_lite0, headstart, tmp_path):
    arguments = (again.folder, "--workspace", again.workspace, "--name", "shapes", "--backbone", "auto", "--json")
    home = {"KERAS_HOME": str(tmp_path / "keras")}
    options = ("--auto-minutes", "0")
    plan, onboarded = (json.loads(headstart(name, *arguments, *options, **home).stdout) for name in ("plan", "onboard"))
    assert [row["backbone"] for row in plan["backbones"]] == list(BACKBONES)
    assert plan["backbones"] == onboarded["backbones"]
    assert any("the best on a sample is efficientnet_lite0" in reason for reason in onboarded["reasons"])
    assert onboarded["features"]["backbone"] == DEFAULT_BACKBONE
    assert onboarded["features"]["num_computed"] == 0
    extracted = json.loads(headstart("extract", *arguments, *options, **home).stdout)
    assert extracted["features"]["backbone"] == DEFAULT_BACKBONE


@pytest.mark.heavy
def test_another_choice_than_the_embedded_backbone_is_a_change_of_the_plan(again):
    dataset = dataset_of(again)
    spec = replace(
        ranking.describe_backbone(Workspace.open(again.workspace), DEFAULT_BACKBONE, None, EXACT), name="other"
    )
    rows = (RankedBackbone("other", 0.2, 1.0), RankedBackbone(DEFAULT_BACKBONE, 0.3, 0.9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "measure_similarity", lambda *_: _similarity(again))
        plan = planning.plan_dataset(Workspace.open(again.workspace), dataset, spec, ranking=rows)
    assert plan.backbones == rows
    (change,) = plan.changes
    assert (change.what, change.value, change.instead_of, change.by) == (
        "backbone",
        "other",
        DEFAULT_BACKBONE,
        "evidence",
    )


def _similarity(place):
    return from_json(Similarity, place.document["similarity"])
