"""The Prefect flow, on the session's real ephemeral server."""

import json
import threading
from dataclasses import fields
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from flows import finetuning, steps
from flows.jobs import FinetuneParams, OnboardParams, finetune, onboard
from pipeline.errors import CancelledError, ConflictError

pytestmark = [pytest.mark.prefect, pytest.mark.heavy]


def test_the_flow_does_what_the_command_line_does(prefect_server, tiny_dataset, tmp_path):
    folder = str(tiny_dataset())
    by_flow = onboard(OnboardParams(folder=folder, workspace=str(tmp_path / "flow")))
    by_steps = steps.onboard(steps.Request(folder, str(tmp_path / "steps")))

    for document in (by_flow, by_steps):
        del document["seconds"], document["workspace"], document["model"]["path"]
    assert by_flow == by_steps


def test_every_step_is_a_task_run_of_the_flow(prefect_server, tiny_dataset, tmp_path):
    from prefect.client.orchestration import get_client

    onboard(OnboardParams(folder=str(tiny_dataset()), workspace=str(tmp_path / "work")))

    with get_client(sync_client=True) as client:
        names = {run.name.rsplit("-", 1)[0] for run in client.read_task_runs()}
    assert {"scan", "plan_dataset", "extract", "train"} <= names


def test_bad_parameters_are_refused_before_a_run_exists(prefect_server):
    from prefect.exceptions import ParameterTypeError

    with pytest.raises(ParameterTypeError, match="unknown_field"):
        onboard({"folder": "pictures", "unknown_field": 1})


def test_a_large_dataset_is_fine_tuned_by_a_run_of_its_own(prefect_server, tmp_path, monkeypatch):
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from flows.deploy import deploy_all

    document = {"strategy": "fine-tune-or-scratch", "dataset": "pets", "workspace": str(tmp_path), "reasons": []}
    monkeypatch.setattr(steps, "onboard", lambda request, progress, call: dict(document))
    monkeypatch.setattr(finetuning, "find_job", lambda request: SimpleNamespace(id="ab" * 8, outcome=None))
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
    deploy_all(PREFECT_API_URL.value())

    part = onboard(OnboardParams(folder="pets", workspace=str(tmp_path)))["finetune"]

    assert (part["job"], part["state"]) == ("ab" * 8, "Scheduled")
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(part["run"])
    assert run.parent_task_run_id is None  # it goes on when the run that asked for it has ended
    assert (run.work_pool_name, run.parameters["params"]["name"]) == ("gpu", "pets")


# ── fine-tuning: what is trained is tested in test_finetuning ────────────────────────────────────

REASON = "The trained network is not better."


def an_epoch(number):
    return {"arm": "fine-tune", "num_epochs": 2, "epoch": number, "val_accuracy": number / 2, "seconds": 60.0}


def a_document(passed=False):
    model = {"name": "pets", "version": 2, "path": "/models/pets/2"} if passed else None
    curve = [{"epoch": number, "val_accuracy": number / 2} for number in range(3)]
    return {"curve": curve, "gate": {"passed": passed, "reason": REASON}, "model": model}


@pytest.fixture
def training(monkeypatch):
    """Replace the training: `training(document)` gives its answer after two epochs, an error is raised there."""
    asked = []

    def prepare(outcome):
        def run(request, progress, log, on_epoch):
            asked.append((request, threading.current_thread() is threading.main_thread()))
            for number in (1, 2):
                on_epoch(an_epoch(number))
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(finetuning, "finetune", run)
        return asked

    return prepare


def run_state(name):
    return finetune(FinetuneParams(name=name, workspace="/work"), return_state=True)


def artifacts_of(state):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    run = state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run])))
    return {artifact.type: artifact for artifact in found}


@pytest.mark.parametrize(
    ("passed", "said"), [(False, f"{REASON} The head stays the model."), (True, f"{REASON} Saved pets@2.")]
)
def test_a_run_is_completed_whatever_its_gate_says_and_says_what_it_said(prefect_server, training, passed, said):
    training(a_document(passed))
    state = run_state("pets")
    assert (state.name, state.message) == ("Completed", said)


def test_the_flow_trains_in_the_main_thread_where_signals_arrive(prefect_server, training):
    asked = training(a_document())
    assert finetune(FinetuneParams(name="pets", workspace="/work", epochs=3)) == a_document()
    assert asked == [(finetuning.FinetuneRequest("pets", "/work", 3), True)]


def test_a_job_that_was_asked_to_stop_ends_its_run_as_cancelled(prefect_server, training):
    training(CancelledError("Job ab was asked to stop; what it has done is kept."))
    state = run_state("pets")
    assert (state.type.value, state.message) == ("CANCELLED", "Job ab was asked to stop; what it has done is kept.")


def test_a_job_that_runs_elsewhere_fails_its_run(prefect_server, training):
    training(ConflictError("Job ab is running in another process."))
    state = run_state("pets")
    assert (state.name, "in another process" in state.message) == ("Failed", True)


def test_the_curve_of_a_run_is_one_table_and_one_progress_bar(prefect_server, training):
    training(a_document())
    found = artifacts_of(run_state("my_pets.v2"))
    assert set(found) == {"table", "progress"}
    assert found["table"].key == "finetune-my-pets-v2"
    assert [row["epoch"] for row in json.loads(found["table"].data)] == [0, 1, 2]
    assert float(found["progress"].data) == 100.0


@pytest.mark.parametrize("changed", [{"unknown": 1}, {"name": "../etc"}, {"epochs": 0}, {"layer_decay": 2}])
def test_bad_parameters_of_fine_tuning_are_refused(changed):
    with pytest.raises(ValidationError):
        FinetuneParams(**{"name": "pets", **changed})


def test_every_field_of_a_request_can_be_asked_for():
    assert {field.name for field in fields(finetuning.FinetuneRequest)} == set(FinetuneParams.model_fields)
    assert {field.name for field in fields(steps.Request)} == set(OnboardParams.model_fields)
