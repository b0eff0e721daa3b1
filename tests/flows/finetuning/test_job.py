import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from flows.documents import to_document
from flows.finetuning import ground
from flows.finetuning import job as finetuning
from flows.finetuning.job import finetune, get_job_plan
from flows.maintenance.listing import list_models as list_rows
from flows.requests import FinetuneRequest, OnboardRequest
from flows.versions import compare
from pipeline.decision.finetuned import Gate
from pipeline.errors import CancelledError, ConflictError, DataError, NotFoundError
from pipeline.jsonable import to_json
from storage.datasets.manifests import read_manifest
from storage.jobs.folder import get_job, list_jobs, run_exclusively
from storage.models.serving import get_model
from storage.models.versions import list_models
from storage.workspace import Workspace
from tests import factories
from tests.conftest import ROOT
from tests.pipeline.finetuning.test_train import assert_same_curve

pytestmark = pytest.mark.heavy

PASSED = Gate(4, 0.5, 0.75, 1, 0, 0.25, 0.2, True, "It is better.")


@pytest.fixture
def always_passes(monkeypatch):
    """The head is right on every one of these pictures, so that nothing can beat it."""
    from pipeline.finetuning import arms

    monkeypatch.setattr(arms, "compare", lambda labels, head, model: PASSED)


@pytest.fixture(autouse=True)
def look_at_every_batch(monkeypatch):
    from pipeline.finetuning import train

    monkeypatch.setattr(train, "SECONDS_BETWEEN_LOOKS", 0.0)


def a_request(place, **changed):
    return replace(FinetuneRequest("shapes", str(place), epochs=2), **changed)


def versions(place):
    return [(ref.name, ref.version) for ref in list_models(Workspace.open(place))]


def files_of(place, job):
    return sorted(path.name for path in (place / "jobs" / job).rglob("*") if path.is_file())


def test_a_job_is_named_by_everything_that_determines_it(place):
    job = get_job_plan(a_request(place))
    assert job.id == get_job_plan(a_request(place, checkpoint_seconds=5.0)).id
    others = {get_job_plan(a_request(place, **changed)).id for changed in ({"epochs": 3}, {"layer_decay": 0.5})}
    assert len({job.id, *others}) == 3
    assert job.outcome is None
    assert job.asked.dataset == "shapes"
    assert job.asked.fingerprint == job.head.record.data.fingerprint
    assert list_jobs(Workspace.open(place)) == []  # nothing was begun


def test_without_a_head_there_is_nothing_to_start_from(place):
    with pytest.raises(NotFoundError, match=r"no model 'flowers'.*Known: shapes.*headstart onboard"):
        get_job_plan(FinetuneRequest("flowers", str(place)))


def test_naming_a_job_loads_nothing_heavy(place):
    script = (
        "import sys; from flows.finetuning.job import *; get_job_plan(FinetuneRequest('shapes', sys.argv[1]));"
        "print([name for name in ('tensorflow', 'keras', 'openvino', 'sklearn', 'prefect') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, place], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_what_is_not_better_than_the_head_is_not_shipped_and_not_tried_again(place, monkeypatch):
    rows = []
    result = finetune(a_request(place), on_epoch=rows.append)
    assert [row.epoch for row in rows] == [0, 1, 2]
    assert not result.gate.passed
    assert result.gate.num_images == result.num_validation
    assert result.model is None
    assert versions(place) == [("shapes", 1)]
    monkeypatch.setattr(finetuning, "_run", None)  # it would fail
    assert finetune(a_request(place)) == result
    assert get_job_plan(a_request(place)).outcome == result
    assert json.loads(json.dumps(to_document(result), allow_nan=False)) == to_document(result)


def test_the_gate_asks_the_serving_head_about_pictures_left_out_of_it(place, tiny_network, monkeypatch):
    from flows.features.extraction import read_taps
    from flows.finetuning.ground import prepare
    from pipeline.heads.fit import fit_head, head_scores
    from pipeline.heads.labels import truth_of

    asked = []

    def note(labels, head, model):
        asked.append(head)
        return replace(PASSED, passed=False)

    from pipeline.finetuning import arms

    monkeypatch.setattr(arms, "compare", note)
    finetune(a_request(place, epochs=1))

    plan = get_job_plan(a_request(place))
    inputs, _ = prepare(plan, None)
    train = [*inputs.fit_on, *inputs.validate_on]
    features = read_taps(plan.workspace, inputs.spec, ("original",), train, [tap.name for tap in inputs.taps])
    serving = fit_head(features, inputs.taps, truth_of(inputs.manifest, train))
    (found,) = asked
    np.testing.assert_allclose(found, serving.held_out[len(inputs.fit_on) :], atol=1e-6)
    seen = head_scores(serving, features)[len(inputs.fit_on) :]
    assert np.abs(found - seen).max() > 1e-3  # it is not what it says of pictures that it has learned from


def test_what_is_better_becomes_the_next_version_with_its_certificate(place, small, always_passes):
    result = finetune(a_request(place))
    assert result.model.version == 2
    assert versions(place) == [("shapes", 1), ("shapes", 2)]
    ref = get_model(Workspace.open(place), "shapes")
    record = ref.record
    assert record.certificate.passed
    tuned = record.finetune
    assert tuned.started_from.version == 1
    assert tuned.gate == PASSED
    assert [row.epoch for row in tuned.curve] == [0, 1, 2]
    assert tuned.schedule.epochs == 2
    assert tuned.num_fit + tuned.num_validation == record.plan.size.num_train
    report = (place / "models/shapes/2/report.md").read_text()
    assert "## Fine-tuning" in report
    assert "| 2 " in report
    assert [row.kind for row in list_rows(Workspace.open(place))] == ["head", "fine-tuned network"]
    job = result.job
    assert get_job_plan(a_request(place, epochs=3)).head.version == 1  # another job starts from the head again
    assert files_of(place, job) == ["job.json", "lock", "outcome.json", "status.json"]  # the rest only served to go on

    from flows.prediction.files import predict

    picture = next(small.folder.rglob("*.png"))
    (row,) = predict(str(place), "shapes", [str(picture)], 3)
    assert sum(probability for _, probability in row.top) == pytest.approx(1, abs=1e-4)


def stopped_after(epoch):
    def leave(row):
        if row.epoch == epoch:
            raise SystemExit(143)

    return leave


def test_a_stopped_job_continues_where_it_was(place, always_passes, tiny_network):
    whole = finetune(a_request(place))
    other = place.parent / "other"
    shutil.copytree(place, other)
    shutil.rmtree(other / "jobs")
    shutil.rmtree(other / "models/shapes/2")
    with pytest.raises(SystemExit):
        finetune(a_request(other), on_epoch=stopped_after(1))
    state = get_job(Workspace.open(other), whole.job)
    assert state.outcome is None
    assert not state.is_running
    assert state.status["epoch"] == 1
    rows = []
    resumed = finetune(a_request(other), on_epoch=rows.append)
    assert [row.epoch for row in rows] == [2]
    assert_same_curve(resumed.curve, whole.curve, rel=1e-3)


def test_a_killed_process_leaves_a_job_that_continues(place):
    script = (
        "import os, signal, sys; from flows.finetuning.job import *\n"
        "def kill(row):\n"
        "    if row.epoch == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "finetune(FinetuneRequest('shapes', sys.argv[1], epochs=2, checkpoint_seconds=0.0), on_epoch=kill)"
    )
    done = subprocess.run([sys.executable, "-c", script, place], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    rows = []
    result = finetune(a_request(place), on_epoch=rows.append)
    assert [row.epoch for row in rows] == [1, 2]  # validated again, not trained again
    assert [row.epoch for row in result.curve] == [0, 1, 2]


def test_a_job_that_is_asked_to_stop_stops_and_can_be_started_again(place, tiny_network):
    from storage.jobs.folder import request_cancel

    workspace = Workspace.open(place)
    job = get_job_plan(a_request(place)).id

    def ask(row):
        if row.epoch == 1:
            assert request_cancel(workspace, job)

    with pytest.raises(CancelledError):
        finetune(a_request(place), on_epoch=ask)
    assert get_job(workspace, job).outcome is None
    assert finetune(a_request(place)).job == job


def test_a_job_runs_once_at_a_time(place):
    job = get_job_plan(a_request(place))
    with (
        run_exclusively(job.workspace, job.id, job.asked),
        pytest.raises(ConflictError, match="another process"),
    ):
        finetune(a_request(place))


def test_a_job_killed_after_its_model_makes_no_second_one(place, always_passes, tiny_network):
    result = finetune(a_request(place, epochs=1))
    (place / "jobs" / result.job / "outcome.json").unlink()
    again = finetune(a_request(place, epochs=1))
    assert again.model == result.model
    assert versions(place) == [("shapes", 1), ("shapes", 2)]


def test_a_picture_that_is_gone_stops_a_job_before_it_trains(place, small, tmp_path):
    folder = tmp_path / "shapes"
    shutil.copytree(small.folder, folder)
    factories.onboard(OnboardRequest(str(folder), str(place), "moved", size=64))
    next((folder / "class0").iterdir()).unlink()
    for path in (folder / "class1").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"class\d/\d+\.(png|jpg): cannot be read"):
        finetune(a_request(place, name="moved"))


def test_too_few_pictures_are_told_apart_from_a_bug(place, monkeypatch):
    monkeypatch.setattr(ground, "split_validation", lambda images, test_split: (list(images), []))
    with pytest.raises(DataError, match="0 to validate on are too few"):
        finetune(a_request(place))


def as_case_4(monkeypatch):
    def prepare(*arguments):
        inputs, extracted = ground.prepare(*arguments)
        return replace(inputs, plan=replace(inputs.plan, case=4, strategy="fine-tune-or-scratch")), extracted

    monkeypatch.setattr(finetuning, "prepare", prepare)


@pytest.mark.parametrize("ahead", [False, True])
def test_in_case_4_a_network_from_random_weights_races_and_stops_after_its_budget_unless_it_is_ahead(
    place, monkeypatch, tiny_network, ahead
):
    from pipeline.finetuning import arms

    as_case_4(monkeypatch)
    judge = arms.judge_race
    monkeypatch.setattr(arms, "judge_race", lambda _, *rest: judge(0.0 if ahead else 1.0, 0.5, *rest[1:]))
    lines = []
    result = finetune(a_request(place, epochs=1), log=lines.append)
    scratch = result.scratch
    assert (scratch.network, scratch.size) == ("course", 32)
    assert 1 < scratch.race.epochs <= 10
    assert scratch.race.cost <= 1
    assert scratch.race.continued is ahead
    num_epochs = len(scratch.curve) - 1
    assert scratch.race.epochs < num_epochs <= scratch.schedule.epochs if ahead else num_epochs == scratch.race.epochs
    assert any("random weights" in line for line in lines)
    assert result.arm in ("fine-tune", "scratch")


def test_the_better_arm_is_the_one_that_is_shipped(place, monkeypatch, always_passes, tiny_network):
    as_case_4(monkeypatch)
    from pipeline.decision.finetuned import Race
    from pipeline.finetuning import arms

    monkeypatch.setattr(arms, "judge_race", lambda *numbers: Race(1, 0.1, 0.2, 0.9, True, "It continues."))
    monkeypatch.setattr(arms.Arm, "best_accuracy", property(lambda arm: float(arm.name == "scratch")))
    monkeypatch.setattr(arms, "plan_scratch", lambda num, plan=arms.plan_scratch: plan(num, 2))
    result = finetune(a_request(place, epochs=1))
    assert result.arm == "scratch"
    assert result.model.version == 2
    ref = get_model(Workspace.open(place), "shapes")
    assert ref.record.recipe.size == 32
    assert "From random weights (course, 32 pixels)" in (place / "models/shapes/2/report.md").read_text()


@pytest.fixture
def both(small, place, tmp_path):
    """The dataset of the workspace's head, to be changed, and that workspace: `folder`, `workspace`."""
    folder = tmp_path / "shapes"
    shutil.copytree(small.folder, folder)
    factories.onboard(OnboardRequest(str(folder), str(place), "shapes", size=64))
    return SimpleNamespace(folder=folder, workspace=place)


def onboard(both):
    return factories.onboard(OnboardRequest(str(both.folder), str(both.workspace), size=64))


def add(both, num):
    for number in range(num):
        label = number % 3
        path = both.folder / f"class{label}" / f"new {number}.png"
        factories.write_photo(path, 500 + number, colour=factories.COLOURS[label])


def test_what_passes_serves_and_its_head_does_not_come_back(both, always_passes, tiny_network, headstart):
    result = finetune(a_request(both.workspace, epochs=1))
    assert to_json(result.serving) == {
        "version": 2,
        "promoted": True,
        "reason": "Version 2 was compared with version 1. It is better.",
        "gate": asdict(PASSED),
    }
    options = ("--size", "64", "--json", "--workspace", both.workspace)
    found = headstart("onboard", both.folder, *options)
    again = json.loads(found.stdout)
    assert (again["model"]["version"], again["serving"]["version"], again["serving"]["promoted"]) == (1, 2, False)
    assert not found.loaded & {"tensorflow", "keras", "openvino", "sklearn", "scipy", "h5py", "PIL"}


def test_a_new_head_is_asked_what_the_network_was_not_trained_on(both, always_passes, tiny_network):
    result = finetune(a_request(both.workspace, epochs=1))
    add(both, 12)
    serving = onboard(both)["serving"]
    manifest = read_manifest(Workspace.open(both.workspace), "shapes")
    assert serving["gate"]["num_images"] == len(manifest.of_split("train")) - result.num_fit
    assert (serving["promoted"], serving["version"]) == (True, 3)  # the network has learned next to nothing
    assert "It is not worse at all" in serving["reason"]
    assert get_job_plan(a_request(both.workspace)).head.version == 3


def test_val_pictures_that_serve_as_the_test_decide_nothing_about_versions(
    place, tmp_path, always_passes, tiny_network
):
    folder = factories.write_dataset(tmp_path / "parted" / "train", per_class=12).parent
    factories.write_dataset(folder / "val", per_class=3, first=100)
    parted = SimpleNamespace(folder=folder, workspace=place)
    assert onboard(parted)["metrics"]["split"] == "val"
    result = finetune(a_request(place, name="parted", epochs=1))
    factories.write_dataset(folder / "train", per_class=4, first=200)
    gate = onboard(parted)["serving"]["gate"]
    manifest = read_manifest(Workspace.open(place), "parted")
    assert len(manifest.of_split("val")) == 9
    assert gate["num_images"] == len(manifest.of_split("train")) - result.num_fit


def test_a_head_that_is_worse_than_the_network_is_saved_and_does_not_serve(
    both, always_passes, tiny_network, monkeypatch
):
    finetune(a_request(both.workspace, epochs=1))
    add(both, 12)
    monkeypatch.setattr(compare, "_head_answers", never_right)
    document = onboard(both)
    assert (document["model"]["version"], document["trained"]) == (3, True)
    assert (document["serving"]["version"], document["serving"]["promoted"]) == (2, False)
    assert "It is worse at all" in document["serving"]["reason"]
    assert get_job_plan(a_request(both.workspace)).head.version == 3  # fine-tuning may start from it


def never_right(workspace, ref, version, today, asked, head):
    return {image.digest: frozenset({"nothing"}) for image in asked}


def test_a_network_that_beats_its_head_but_not_what_serves_by_now_does_not_serve(both, always_passes, tiny_network):
    workspace = Workspace.open(both.workspace)
    started_from = get_job_plan(a_request(both.workspace, epochs=1)).head
    add(both, 12)
    assert onboard(both)["serving"]["version"] == 2  # while the job runs, a better head has come
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ground, "_newest_head", lambda workspace, name: started_from)
        result = finetune(a_request(both.workspace, epochs=1))
    assert result.model.version == 3
    assert (result.serving.version, result.serving.promoted) == (2, False)
    assert to_json(result.serving)["gate"]["num_images"] == result.num_validation
    assert get_model(workspace, "shapes").version == 2


def test_a_network_saved_by_a_job_that_was_killed_serves_after_all(both, always_passes, tiny_network, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(finetuning, "settle", None)
        with pytest.raises(TypeError):
            finetune(a_request(both.workspace, epochs=1))
    assert get_model(Workspace.open(both.workspace), "shapes").version == 1
    result = finetune(a_request(both.workspace, epochs=1))
    assert (result.serving.version, result.serving.promoted) == (2, True)
