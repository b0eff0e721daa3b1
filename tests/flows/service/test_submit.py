"""Jobs on a server, and what is done where there is none. What a job trains does not matter here."""

import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, replace

import pytest

from flows.documents import to_document
from flows.finetuning import job as finetuning
from flows.finetuning.results import FinetuneResult
from flows.forms import parse_request
from flows.requests import FinetuneRequest
from flows.service import control
from flows.service import submit as submission
from flows.service.client import find_runs, wait_for
from flows.service.submit import schedule_finetuning, submit, submit_finetune
from pipeline.decision.plan import FINETUNING
from pipeline.errors import ConflictError, DamagedError, HeadstartError, NotFoundError, ServerUnreachableError
from storage.jobs.folder import run_exclusively
from storage.workspace import Workspace
from tests import factories
from tests.conftest import ROOT

NOWHERE = "http://127.0.0.1:9/api"  # the port of a service that nobody runs any more
ENDED = factories.a_finetune_result(passed=True)


@dataclass
class Planned:
    """What `get_job_plan` finds."""

    id: str
    outcome: FinetuneResult | None = None


@pytest.fixture
def job(monkeypatch, request):
    """The job that every request means, one for each test."""
    planned = Planned(f"{abs(hash(request.node.nodeid)):016x}"[:16])
    monkeypatch.setattr("flows.finetuning.job.get_job_plan", lambda request: planned)
    return planned


def scheduled(workspace, strategy="fine-tune"):
    """What is done about the fine-tuning of a dataset that was onboarded."""
    return schedule_finetuning(factories.an_onboard_result("pets", workspace, strategy)).finetune


def a_request(workspace, **changed):
    return FinetuneRequest("pets", str(workspace), **changed)


# ── without a server ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("strategy", ["head-on-top", "head-on-evidence"])
def test_a_head_schedules_nothing(workspace, strategy):
    assert scheduled(workspace, strategy) is None


@pytest.mark.parametrize("strategy", FINETUNING)
def test_without_a_server_onboarding_says_how_to_fine_tune_here(workspace, job, strategy, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    part = scheduled(workspace, strategy)
    assert (part.job, part.state) == (job.id, "not scheduled")
    assert "PREFECT_API_URL" in part.reason
    assert part.next == f"headstart finetune pets --workspace {workspace}"


def test_a_server_that_does_not_answer_fails_nothing(workspace, job, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", NOWHERE.replace("//", "//ada:secret@"))
    part = scheduled(workspace)
    assert part.state == "not scheduled"
    assert NOWHERE in part.reason
    assert "secret" not in str(to_document(part))


def test_a_job_that_cannot_be_named_fails_nothing(workspace, monkeypatch):
    def damaged(request):
        raise DamagedError("The record of pets@1 is damaged.")

    monkeypatch.setattr(finetuning, "get_job_plan", damaged)
    part = scheduled(workspace)
    assert (part.job, part.state, part.reason) == (None, "not scheduled", "The record of pets@1 is damaged.")


def test_in_the_usual_workspace_the_next_command_is_short(job, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("HEADSTART_HOME", "/usual")
    assert scheduled("/usual").next == "headstart finetune pets"


def test_a_job_that_has_ended_is_not_submitted_again(workspace, job, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", NOWHERE)
    job.outcome = ENDED
    assert submit_finetune(a_request(workspace)) == scheduled(workspace)
    assert to_document(scheduled(workspace)) == {
        "schema_version": 1,
        "job": job.id,
        "state": "finished",
        "passed": True,
        "model": {"name": "shapes", "version": 2, "path": "/models/shapes/2"},
    }


def test_a_job_that_is_to_be_submitted_needs_a_server(workspace, job, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", NOWHERE)
    with pytest.raises(ServerUnreachableError, match=r"leave --submit out to run here"):
        submit_finetune(a_request(workspace))


def test_without_a_server_prefect_is_not_loaded(workspace):
    lines = (
        "import sys; from flows.service.submit import schedule_finetuning; from tests import factories",
        f"part = schedule_finetuning(factories.an_onboard_result('pets', {str(workspace)!r}, 'fine-tune')).finetune",
        "assert 'There is no model' in part.reason, part",
        "sys.exit('prefect' in sys.modules)",
    )
    assert subprocess.run([sys.executable, "-c", "; ".join(lines)], cwd=ROOT, check=False).returncode == 0


# ── on a real server ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.prefect
def test_onboarding_of_a_large_dataset_submits_one_run_however_often(workspace, job, server):
    first, second = (scheduled(workspace) for _ in range(2))
    assert (first.job, first.state, first.server) == (job.id, "Scheduled", server)
    assert second == first
    (run,) = find_runs(server, str(workspace), job.id)
    assert (run.id, run.attempt, run.dataset, run.workspace) == (first.run, 1, "pets", str(workspace))


@pytest.mark.prefect
def test_a_password_of_the_server_is_not_in_the_answer(workspace, job, server, monkeypatch):
    monkeypatch.setattr(submission, "get_server", lambda otherwise: server.replace("//", "//ada:secret@"))
    assert submit_finetune(a_request(workspace)).server == server


@pytest.mark.prefect
def test_another_attempt_is_made_only_when_none_is_open(workspace, job, server):
    submit_finetune(a_request(workspace))
    with pytest.raises(ConflictError, match=rf"is Scheduled.*headstart jobs cancel {job.id}"):
        submit_finetune(a_request(workspace), retry=True)
    assert [run.state for run in control.cancel_job(str(workspace), job.id).runs] == ["Cancelled"]
    again = submit_finetune(a_request(workspace, epochs=7, layer_decay=0.5, unfreeze_epochs=2.0))
    assert again.state == "Cancelled"
    assert again.next == (
        "headstart finetune pets --epochs 7 --layer-decay 0.5 --unfreeze-epochs 2.0 "
        f"--workspace {workspace} --submit --retry"
    )
    retried = submit_finetune(a_request(workspace), retry=True)
    assert (retried.attempt, retried.state) == (2, "Scheduled")
    assert [run.attempt for run in find_runs(server, str(workspace), job.id)] == [2, 1]


@pytest.mark.prefect
def test_a_job_that_waits_is_listed_and_can_be_stopped_by_the_beginning_of_its_id(workspace, job, server):
    submit_finetune(a_request(workspace))
    found = control.describe_jobs(str(workspace))
    (row,) = found.jobs
    assert (row.job, row.dataset, row.state, row.run_state) == (job.id, "pets", "not begun", "Scheduled")
    assert found.server == server
    cancelled = control.cancel_job(str(workspace), job.id[:8])
    assert (cancelled.job, cancelled.was_running) == (job.id, False)
    assert [run.state for run in cancelled.runs] == ["Cancelled"]
    with pytest.raises(NotFoundError):
        control.cancel_job(str(workspace), "f" * 16)


@pytest.mark.prefect
def test_the_same_pictures_in_another_workspace_are_another_run(workspace, job, server):
    another = workspace.parent / "another"
    first, second = (submit_finetune(a_request(place)).run for place in (workspace, another))
    assert first != second
    control.cancel_job(str(workspace), job.id)
    assert [row.run_state for row in control.describe_jobs(str(workspace)).jobs] == ["Cancelled"]
    assert [row.run_state for row in control.describe_jobs(str(another)).jobs] == ["Scheduled"]


@pytest.mark.prefect
def test_a_job_of_the_workspace_is_listed_with_its_newest_run(workspace, job, server):
    submit_finetune(a_request(workspace))
    control.cancel_job(str(workspace), job.id)
    submit_finetune(a_request(workspace), retry=True)
    with run_exclusively(Workspace.open(workspace), job.id, factories.a_job_asked("pets")):
        (row,) = control.describe_jobs(str(workspace)).jobs
        assert (row.state, row.attempt, row.run_state) == ("running", 2, "Scheduled")
        cancelled = control.cancel_job(str(workspace), job.id[:6])
    assert (cancelled.was_running, len(cancelled.runs)) == (True, 1)


@pytest.mark.prefect
def test_a_server_without_the_deployment_says_how_it_gets_one(workspace, job, server, monkeypatch):
    monkeypatch.setattr(submission, "FINETUNE", "fine-tune/absent")
    with pytest.raises(NotFoundError, match=r"no deployment 'fine-tune/absent'. Make it with: headstart deploy"):
        submit_finetune(a_request(workspace))
    part = scheduled(workspace)
    assert (part.state, "headstart deploy" in part.reason) == ("not scheduled", True)


@pytest.mark.prefect
def test_onboarding_is_submitted_with_everything_that_was_asked(workspace, server):
    from prefect.client.orchestration import get_client

    from flows.requests import OnboardRequest

    asked = OnboardRequest("pictures", str(workspace), "pets", size=96, views=2)
    submitted = submit(asked)
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(submitted.run)
    assert run.name == "onboard-pets"
    assert parse_request(OnboardRequest, run.parameters["params"]) == replace(asked, folder=os.path.abspath("pictures"))


# ── until it has ended ───────────────────────────────────────────────────────────────────────────


@pytest.fixture
def submitted(server, workspace):
    """A run that waits, and what ends it: `end(type, message)`."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State

    from flows.requests import OnboardRequest

    document = submit(OnboardRequest("pictures", str(workspace), "pets"))

    def end(kind, message):
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(document.run, State(type=kind, message=message), force=True)

    return document, end


@pytest.mark.prefect
def test_waiting_returns_when_the_run_has_ended(submitted):
    document, end = submitted
    ending = threading.Timer(0.3, end, ("COMPLETED", "pets@1: case 2."))
    ending.start()
    assert wait_for(document, 0.05) == replace(document, state="Completed", message="pets@1: case 2.")


@pytest.mark.prefect
@pytest.mark.parametrize(
    ("state", "message", "code"),
    [
        ("FAILED", "DataError: No picture was found.", 3),
        ("FAILED", "UnknownNameError: Unknown backbone 'resnt50'.", 2),
        ("FAILED", "Flow run encountered an exception: ZeroDivisionError: division by zero", 1),
        ("CRASHED", "No heartbeat for 90 s", 1),
        ("CANCELLED", "by hand", 130),
    ],
)
def test_a_run_that_ended_badly_is_the_error_that_the_command_would_have_had(submitted, state, message, code):
    document, end = submitted
    end(state, message)
    with pytest.raises(
        HeadstartError, match=re.escape(message.removeprefix("DataError: ").removeprefix("UnknownNameError: "))
    ) as raised:
        wait_for(document, 0.05)
    assert raised.value.exit_code == code


@pytest.mark.prefect
def test_waiting_for_nothing_is_a_usage_error(headstart, workspace):
    commands = [("onboard", "pictures"), ("finetune", "pets"), ("refresh",), ("predict-batch", "pets", "in", "out.csv")]
    for command in commands:
        answer = headstart(*command, "--wait", "--workspace", workspace)
        assert (answer.code, "--wait needs --submit" in answer.stderr) == (2, True)
