"""The Prefect flow, on the session's real ephemeral server."""

import json
import shutil
import threading
from dataclasses import asdict

import pytest

from flows.documents import to_document
from flows.finetuning import job as finetuning
from flows.forms import parse_request
from flows.requests import (
    FinetuneRequest,
    GcRequest,
    OnboardRequest,
    PredictBatchRequest,
    RefreshRequest,
    ScheduledGcRequest,
    VerifyRequest,
)
from flows.service import flows as flows_module
from flows.service.flows import finetune, gc, onboard, predict_batch, refresh, verify
from pipeline.decision.finetuned import JobStatus
from pipeline.errors import CancelledError, ConflictError, UsageError
from tests import factories

pytestmark = [pytest.mark.prefect, pytest.mark.heavy]


def test_the_flow_does_what_the_command_line_does(prefect_server, tiny_dataset, tmp_path):
    folder = str(tiny_dataset())
    by_flow = onboard(OnboardRequest(folder=folder, workspace=str(tmp_path / "flow")))
    by_steps = factories.onboard(OnboardRequest(folder, str(tmp_path / "steps")))

    for document in (by_flow, by_steps):
        del document["seconds"], document["workspace"], document["model"]["path"]
    assert by_flow == by_steps


def test_a_run_shows_its_plan_its_figures_and_its_report_under_the_name_of_its_dataset(
    prefect_server, tiny_dataset, tmp_path
):
    state = onboard(OnboardRequest(folder=str(tiny_dataset()), workspace=str(tmp_path / "work")), return_state=True)
    found = {artifact.key: artifact for artifact in all_artifacts_of(state) if artifact.key}
    assert set(found) == {f"{kind}-shapes" for kind in ("plan", "metrics", "classes", "report", "files")}
    assert "**● " in found["plan-shapes"].data
    assert {row["name"] for row in json.loads(found["classes-shapes"].data)} == {"class0", "class1", "class2"}
    assert "accuracy" in {row["figure"] for row in json.loads(found["metrics-shapes"].data)}
    assert found["report-shapes"].data.startswith("# shapes")
    assert state.message.startswith("shapes@1: case ")


def test_a_folder_that_is_not_there_fails_the_run_with_a_sentence(prefect_server, tmp_path):
    state = onboard(OnboardRequest(folder=str(tmp_path / "absent"), workspace=str(tmp_path)), return_state=True)
    assert (state.name, state.message.partition(":")[0]) == ("Failed", "NotFoundError")


def test_every_step_is_a_task_run_of_the_flow(prefect_server, tiny_dataset, tmp_path):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    state = onboard(OnboardRequest(folder=str(tiny_dataset()), workspace=str(tmp_path / "work")), return_state=True)

    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=of_run)
    assert {run.name.rsplit("-", 1)[0] for run in runs} == {"scan", "plan_dataset", "extract", "train"}
    assert {run.state.name for run in runs} == {"Completed"}


def test_bad_parameters_are_refused_before_a_run_exists(prefect_server):
    from prefect.exceptions import ParameterTypeError

    with pytest.raises(ParameterTypeError, match="unknown_field"):
        onboard({"folder": "pictures", "unknown_field": 1})


def test_a_dataset_whose_plan_asks_for_it_is_fine_tuned_by_a_run_of_its_own(server, client, tiny_dataset, tmp_path):
    asked = OnboardRequest(str(tiny_dataset("pets")), str(tmp_path / "work"), size=64, strategy="fine-tune")
    state = onboard(asked, return_state=True)

    document = state.result()
    part = document["finetune"]
    assert (document["schema_version"], part["attempt"], part["state"]) == (1, 1, "Scheduled")
    assert state.message.endswith("Version 1 serves. Fine-tuning: Scheduled.")
    run = client.read_flow_run(part["run"])
    assert run.parent_task_run_id is None  # it continues when the run that asked for it has ended
    assert (run.work_pool_name, run.parameters["params"]["name"]) == ("gpu", "pets")


# ── fine-tuning: what is trained is tested in test_finetuning ────────────────────────────────────

RESULTS = {passed: factories.a_finetune_result(passed, num_epochs=2) for passed in (False, True)}


def epochs(result):
    """What a training reports, an epoch at a time."""
    return [JobStatus(**asdict(row), arm="fine-tune", num_epochs=2) for row in result.curve[1:]]


@pytest.fixture
def training(monkeypatch):
    """Replace the training: `training(result)` gives its answer after two epochs, an error is raised there."""
    asked = []

    def prepare(outcome):
        def run(request, progress, log, on_epoch):
            asked.append((request, threading.current_thread() is threading.main_thread()))
            for status in epochs(RESULTS[False]):
                on_epoch(status)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(finetuning, "finetune", run)
        return asked

    return prepare


def run_state(name):
    return finetune(FinetuneRequest(name=name), return_state=True)  # in the workspace of the tests


def artifacts_of(state):
    return {artifact.type: artifact for artifact in all_artifacts_of(state)}


def all_artifacts_of(state):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    run = state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run])))


@pytest.mark.parametrize(("passed", "said"), [(False, "The head stays the model."), (True, "Saved shapes@2.")])
def test_a_run_is_completed_whatever_its_gate_says_and_says_what_it_said(
    prefect_server, training, passed, said, monkeypatch
):
    shown = []
    monkeypatch.setattr(flows_module, "get_model", lambda workspace, model: model)
    monkeypatch.setattr(flows_module, "show_model", lambda showcase, ref: shown.append(ref))
    training(RESULTS[passed])
    state = run_state("shapes")
    assert (state.name, state.message) == ("Completed", f"{RESULTS[passed].gate.reason} {said}")
    assert shown == (["shapes@2"] if passed else [])


def test_the_flow_trains_in_the_main_thread_where_signals_arrive(prefect_server, training):
    asked = training(RESULTS[False])
    document = finetune({"name": "pets", "workspace": "/nowhere", "schedule": {"epochs": 3}})
    assert document == to_document(RESULTS[False])
    assert asked == [(FinetuneRequest("pets", "/nowhere", epochs=3), True)]


def test_a_job_that_was_asked_to_stop_ends_its_run_as_cancelled(prefect_server, training):
    training(CancelledError("Job ab was asked to stop; what it has done is kept."))
    state = run_state("pets")
    assert (state.type.value, state.message) == ("CANCELLED", "Job ab was asked to stop; what it has done is kept.")


def test_a_job_that_runs_elsewhere_fails_its_run(prefect_server, training):
    training(ConflictError("Job ab is running in another process."))
    state = run_state("pets")
    assert (state.name, "in another process" in state.message) == ("Failed", True)


def test_the_curve_of_a_run_is_one_table_and_one_progress_bar(prefect_server, training):
    training(RESULTS[False])
    found = artifacts_of(run_state("my_pets.v2"))
    assert set(found) == {"table", "progress"}
    assert found["table"].key == "finetune-my-pets-v2"
    assert [row["epoch"] for row in json.loads(found["table"].data)] == [0, 1, 2]
    assert float(found["progress"].data) == 100.0


@pytest.mark.parametrize(
    "changed",
    [{"unknown": 1}, {"name": "../etc"}, {"schedule": {"epochs": 0}}, {"schedule": {"layer_decay": 2}}],
)
def test_bad_parameters_of_fine_tuning_are_refused(changed):
    with pytest.raises(UsageError, match="cannot be used"):
        parse_request(FinetuneRequest, {"name": "pets", **changed})


def test_a_refresh_shows_a_row_a_dataset_and_fails_when_one_of_them_could_not_be_read(
    prefect_server, tiny_dataset, tmp_path
):
    for name in ("cats", "dogs"):
        factories.onboard(OnboardRequest(str(tiny_dataset(name)), str(tmp_path / "work"), size=64))
    state = refresh(RefreshRequest(workspace=str(tmp_path / "work")), return_state=True)
    assert state.message == "2 datasets read; 0 pictures computed."
    (tmp_path / "dogs").rename(tmp_path / "elsewhere")
    state = refresh(RefreshRequest(workspace=str(tmp_path / "work")), return_state=True)
    assert (state.name, "1 with an error" in state.message) == ("Failed", True)
    rows = json.loads(artifacts_of(state)["table"].data)
    assert [row["dataset"] for row in rows] == ["cats", "dogs"]
    assert "No training picture changed" in rows[0][""]
    assert "NotFoundError" in rows[1][""] or "DataError" in rows[1][""]


def test_a_batch_of_new_pictures_is_predicted_by_the_flow(prefect_server, first_run, tmp_path):
    workspace, output = tmp_path / "work", tmp_path / "out.csv"
    shutil.copytree(first_run.workspace, workspace)
    asked = PredictBatchRequest(
        model="shapes", folder=str(first_run.folder), output=str(output), workspace=str(workspace)
    )
    state = predict_batch(asked, return_state=True)
    assert state.message.startswith("shapes@1: 24 new files, 0 of them not pictures; 24 rows in ")
    assert len(output.read_text().splitlines()) == 25


def test_what_verify_finds_and_gc_removes_is_shown(prefect_server, again):
    workspace = str(again.workspace)
    state = verify(VerifyRequest(workspace=workspace), return_state=True)
    assert (state.name, state.message) == ("Completed", "No damage found.")
    (model,) = again.workspace.glob("models/shapes/1/classes.json")
    model.write_text("{}")
    state = verify(VerifyRequest(workspace=workspace), return_state=True)
    assert (state.name, "1 of them not repaired" in state.message) == ("Failed", True)
    assert json.loads(artifacts_of(state)["table"].data)[0]["path"].startswith("models/shapes/1")
    state = gc(ScheduledGcRequest(workspace=workspace), return_state=True)
    assert (state.name, state.message.endswith("are not needed.")) == ("Completed", True)


@pytest.mark.parametrize("given", [{}, {"delete": True}])
def test_a_scheduled_gc_that_names_no_age_keeps_what_was_needed_within_a_month(given):
    assert gc.validate_parameters({"params": given})["params"].older_than == "30d"
    assert GcRequest(**given).older_than == "0d"  # on the command line
