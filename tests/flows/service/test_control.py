"""Jobs of a workspace where there is no server; with one, see test_submission."""

import json
from dataclasses import asdict

import pytest

from flows.documents import to_document
from flows.service.control import cancel_job, describe_jobs
from pipeline.decision.finetuned import JobStatus
from pipeline.errors import NotFoundError
from pipeline.jsonable import to_json
from storage.jobs.folder import run_exclusively
from storage.workspace import Workspace
from tests.factories import a_curve, a_finetune_result, a_job_asked, rewrite_document

ASKED = a_job_asked("pets")
OUTCOME = to_document(a_finetune_result())


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def states(workspace):
    return {row.job: (row.state, row.passed) for row in describe_jobs(str(workspace)).jobs}


def test_a_job_runs_then_stands_still_until_it_has_ended(workspace):
    opened = Workspace.open(workspace)
    with run_exclusively(opened, "a" * 16, ASKED):
        assert states(workspace) == {"a" * 16: ("running", None)}
    assert states(workspace) == {"a" * 16: ("stopped", None)}
    with run_exclusively(opened, "a" * 16, ASKED) as job:
        job.write_outcome(OUTCOME)
    assert states(workspace) == {"a" * 16: ("finished", False)}


def test_a_running_job_is_told_to_stop_and_another_is_left_alone(workspace):
    opened = Workspace.open(workspace)
    with run_exclusively(opened, "a" * 16, ASKED) as job, run_exclusively(opened, "b" * 16, ASKED) as other:
        cancelled = cancel_job(str(workspace), "aaaa")
        assert (job.is_cancelled(), other.is_cancelled()) == (True, False)
    assert to_json(cancelled) == {"job": "a" * 16, "was_running": True, "runs": []}
    assert cancel_job(str(workspace), "a" * 16).was_running is False


@pytest.mark.parametrize("text", ["", "a", "ffff"])
def test_a_job_that_is_unknown_is_not_found(workspace, text):
    with run_exclusively(Workspace.open(workspace), "a" * 16, ASKED), pytest.raises(NotFoundError):
        cancel_job(str(workspace), text)


def test_a_server_that_is_down_hides_no_job(headstart, workspace):
    with run_exclusively(Workspace.open(workspace), "a" * 16, ASKED):
        found = headstart("jobs", "--json", "--workspace", workspace, PREFECT_API_URL="http://127.0.0.1:9/api")
    document = json.loads(found.stdout)
    assert found.code == 0
    assert (document["server"], [row["state"] for row in document["jobs"]]) == (None, ["running"])
    assert "No Prefect server answers" in found.stderr
    assert "prefect" not in found.loaded


def test_for_people_a_job_is_a_row_and_the_one_that_is_stopped_a_line(headstart, workspace):
    opened = Workspace.open(workspace)
    with run_exclusively(opened, "b" * 16, ASKED) as job:
        job.write_outcome(OUTCOME)
    with run_exclusively(opened, "a" * 16, ASKED) as job:
        job.write_status(to_json(JobStatus(**asdict(a_curve(2)[2]), arm="fine-tune", num_epochs=4)))
        listed = headstart("jobs", "--workspace", workspace)
        stopped = headstart("jobs", "cancel", "aaaa", "--workspace", workspace)
    first, second = (line for line in listed.stdout.splitlines() if "pets" in line)
    assert all(text in first for text in ("a" * 16, "running", "2 of 4"))
    assert all(text in second for text in ("b" * 16, "finished", "not passed"))
    assert "stops at its next step" in stopped.stdout
    assert not listed.loaded & {"tensorflow", "prefect", "h5py"}


def test_the_rows_of_jobs_have_the_same_keys_whatever_is_known(workspace):
    opened = Workspace.open(workspace)
    with run_exclusively(opened, "a" * 16, ASKED):
        pass
    with run_exclusively(opened, "b" * 16, ASKED) as job:
        job.write_outcome(to_document(a_finetune_result(passed=True)))
    rows = {row["job"]: row for row in to_json(describe_jobs(str(workspace)))["jobs"]}
    stopped, finished = rows["a" * 16], rows["b" * 16]
    assert set(stopped) == set(finished)
    assert (stopped["status"], stopped["asked"], stopped["model"]) == ({}, asdict(ASKED), None)
    assert (finished["passed"], finished["model"]["version"]) == (True, 2)


def test_a_damaged_job_does_not_hide_the_others(workspace, caplog):
    opened = Workspace.open(workspace)
    with run_exclusively(opened, "a" * 16, ASKED), run_exclusively(opened, "b" * 16, ASKED):
        rewrite_document(opened.job("a" * 16) / "job.json", value={"dataset": "pets"})
        assert states(workspace) == {"b" * 16: ("running", None)}
    assert f"jobs/{'a' * 16}/job.json is damaged" in caplog.text
