"""Each thing that can be amiss on a Prefect server is found, with what to do about it.

The faults are planted in what was read from the session's real server, which other tests need as it is.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from uuid import uuid4

import pytest

from tests.flows.service.test_deploy import DEPLOYMENTS as DEPLOYED

pytestmark = pytest.mark.prefect
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def ago(**span):
    return NOW - timedelta(**span)


@pytest.fixture(scope="module")
def read(deployed):
    """What the session's server says, as it is."""
    from flows.doctor.server_state import read_server

    return read_server(deployed.server)


@pytest.fixture
def healthy(read):
    """The same at noon, with workers, and runs of every schedule to come."""
    deployments = {
        name: found.model_copy(
            update={
                "paused": False,
                "schedules": [
                    row.model_copy(update={"active": True, "updated": ago(days=1)}) for row in found.schedules
                ],
            }
        )
        for name, found in read.deployments.items()
    }
    return replace(
        read,
        is_open=True,
        now=NOW,
        pools={name: pool.model_copy(update={"is_paused": False}) for name, pool in read.pools.items()},
        workers={name: [a_worker()] for name in ("cpu", "gpu")},
        deployments=deployments,
        due=[],
        failed=[],
        scheduled=frozenset(row.id for found in deployments.values() for row in found.schedules),
    )


def a_worker(status="ONLINE", heard=None):
    from prefect.client.schemas.objects import Worker

    return Worker(name="box", work_pool_id=uuid4(), last_heartbeat_time=heard or ago(seconds=10), status=status)


def a_run(state="RUNNING", pool="cpu", **changed):
    from prefect.client.schemas.objects import FlowRun, State

    fields = {"flow_id": uuid4(), "name": "onboard-pets", "work_pool_name": pool, "start_time": ago(hours=1)}
    return FlowRun(**fields | changed, state=State(type=state, timestamp=ago(hours=1)))


def changed(state, deployment, **fields):
    """The state with one deployment changed."""
    name = f"{deployment}/{deployment}"
    return replace(state, deployments={**state.deployments, name: state.deployments[name].model_copy(update=fields)})


def judge(state):
    from flows.doctor import server

    return server.judge(state)


def findings(state):
    return [(check.name, check.state, check.found, check.advice) for check in judge(state) if check.state != "ok"]


def the_finding(state):
    (found,) = findings(state)
    return found


def test_what_deploy_has_made_is_read(read):
    from importlib.metadata import version

    from flows.doctor.server import DEPLOYMENTS

    assert set(DEPLOYMENTS) == DEPLOYED
    assert {f"{name}/{name}" for name in DEPLOYMENTS} <= read.deployments.keys()
    assert {"cpu", "gpu"} <= read.pools.keys()
    assert (read.version, read.is_open) == (version("prefect"), True)


def test_a_run_that_waits_and_one_that_failed_are_read(deployed, client):
    from prefect.client.schemas.objects import State, StateType

    from flows.doctor.server_state import read_server

    deployment = client.read_deployment_by_name("verify/verify")
    waits, failed = (client.create_flow_run_from_deployment(deployment.id) for _ in range(2))
    client.set_flow_run_state(failed.id, State(type=StateType.CRASHED), force=True)
    try:
        state = read_server(deployed.server)
        assert failed.id not in {run.id for run in state.due}
        assert {run.id for run in state.due} >= {waits.id}
        assert failed.id in {run.id for run in state.failed}
        assert waits.id not in {run.id for run in state.failed}
    finally:
        client.delete_flow_run(waits.id)
        client.delete_flow_run(failed.id)


def test_a_healthy_server_has_no_finding(healthy):
    assert findings(healthy) == []


@pytest.mark.parametrize(
    ("url", "is_open", "state"),
    [
        ("http://127.0.0.1:4200/api", True, "ok"),
        ("http://[::1]:4200/api", True, "ok"),
        ("http://localhost:4200/api", True, "ok"),
        ("http://prefect.example:4200/api", True, "warning"),
        ("http://prefect.example:4200/api", False, "ok"),
        ("http://prefect.example:4200/api", None, "skipped"),
    ],
)
def test_a_server_without_a_password_that_is_named_by_a_network_address_is_a_warning(healthy, url, is_open, state):
    checks = {check.name: check for check in judge(replace(healthy, url=url, is_open=is_open))}
    access = checks["access"]
    assert (access.state, "PREFECT_SERVER_API_AUTH_STRING" in access.advice) == (state, state == "warning")


def test_another_prefect_on_the_server_is_a_problem(healthy):
    assert the_finding(replace(healthy, version="3.6.1"))[:3] == (
        "server version",
        "problem",
        f"Prefect 3.6.1 there, {version('prefect')} here.",
    )


def test_a_pool_that_is_missing_or_paused_is_a_problem(healthy):
    paused = healthy.pools["cpu"].model_copy(update={"is_paused": True})
    name, state, _, advice = the_finding(replace(healthy, pools={**healthy.pools, "cpu": paused}))
    assert (name, state, "prefect work-pool resume cpu" in advice) == ("pools", "problem", True)
    without = {name: pool for name, pool in healthy.pools.items() if name != "gpu"}
    assert the_finding(replace(healthy, pools=without)) == (
        "pools",
        "problem",
        "Missing: gpu.",
        "Make them: headstart deploy",
    )


def test_a_pool_without_a_worker_says_when_the_last_sent_a_heartbeat_and_how_to_start_one(healthy):
    gone = [a_worker("OFFLINE", ago(hours=3))]
    assert the_finding(replace(healthy, workers={**healthy.workers, "cpu": gone})) == (
        "workers",
        "problem",
        "cpu: no worker is online; last heartbeat 3 h ago.",
        "Start one: prefect worker start --pool cpu --limit 2",
    )
    name, state, found, advice = the_finding(replace(healthy, workers={**healthy.workers, "gpu": []}))
    assert (name, state, "none ever was" in found) == ("workers", "warning", True)
    assert "--pool gpu --limit 1" in advice


def test_a_deployment_that_is_missing_old_or_paused_is_found(healthy):
    without = {name: found for name, found in healthy.deployments.items() if name != "refresh/refresh"}
    assert the_finding(replace(healthy, deployments=without))[1:3] == ("problem", "Missing: refresh.")
    name, state, found, advice = the_finding(changed(healthy, "extract", version="0.0.9"))
    assert (name, state, "headstart 0.0.9" in found) == ("deployments", "warning", True)
    assert advice.startswith("headstart deploy")
    assert the_finding(changed(healthy, "gc", paused=True))[1:3] == (
        "warning",
        "gc: it is paused, so its schedules make no runs.",
    )


def test_the_schedules_of_a_paused_deployment_are_not_taken_for_a_dead_scheduler(healthy):
    paused = changed(healthy, "refresh", paused=True)
    nightly = {row.id for row in healthy.deployments["refresh/refresh"].schedules}
    assert nightly
    assert the_finding(replace(paused, scheduled=healthy.scheduled - nightly))[:2] == ("deployments", "warning")


def test_a_server_that_nothing_was_deployed_to_is_told_in_few_lines(healthy):
    empty = replace(healthy, deployments={}, pools={}, workers={})
    assert [(name, state) for name, state, *_ in findings(empty)] == [
        ("pools", "problem"),
        ("deployments", "problem"),
    ]


def test_a_schedule_without_a_run_to_come_means_that_the_scheduler_is_dead(healthy):
    (nightly,) = healthy.deployments["refresh/refresh"].schedules
    name, state, found, advice = the_finding(replace(healthy, scheduled=healthy.scheduled - {nightly.id}))
    assert (name, state, found.startswith("refresh 0 3 * * *")) == ("schedules", "problem", True)
    assert "constraints.txt" in advice


@pytest.mark.parametrize(
    "schedule",
    [
        {"cron": "0 0 1 1 *"},
        {"interval": timedelta(days=365)},
    ],
)
def test_a_schedule_that_is_due_in_a_year_or_was_made_just_now_needs_no_run_yet(healthy, schedule):
    from prefect.client.schemas.schedules import construct_schedule

    (nightly,) = healthy.deployments["refresh/refresh"].schedules
    state = replace(healthy, scheduled=healthy.scheduled - {nightly.id})
    rare = nightly.model_copy(update={"schedule": construct_schedule(**schedule)})
    assert findings(changed(state, "refresh", schedules=[rare])) == []
    young = nightly.model_copy(update={"updated": ago(seconds=30)})
    assert findings(changed(state, "refresh", schedules=[young])) == []


def test_a_service_that_does_nothing_by_itself_is_a_warning(healthy):
    off = healthy
    for name in ("refresh", "verify", "gc"):
        (schedule,) = healthy.deployments[f"{name}/{name}"].schedules
        off = changed(off, name, schedules=[schedule.model_copy(update={"active": False})])
    assert the_finding(replace(off, scheduled=frozenset()))[:2] == ("schedules", "warning")


def test_a_run_that_waits_is_a_problem_without_a_worker_and_a_warning_with_one_that_may_be_busy(healthy):
    waits = a_run("SCHEDULED", next_scheduled_start_time=ago(minutes=11), start_time=None)
    empty = replace(healthy, due=[waits], workers={**healthy.workers, "cpu": []})
    _, (name, state, found, advice) = findings(empty)
    assert (name, state) == ("late runs", "problem")
    assert found == "1 of pool cpu have waited for up to 11 min: onboard-pets."
    assert "prefect worker start --pool cpu" in advice
    name, state, _, advice = the_finding(replace(healthy, due=[waits]))
    assert (name, state, "If box is busy" in advice) == ("late runs", "warning", True)
    soon = waits.model_copy(update={"next_scheduled_start_time": ago(minutes=9)})
    assert findings(replace(healthy, due=[soon])) == []


def test_runs_that_failed_lately_are_named_with_where_to_read_why(healthy):
    failed = [a_run("FAILED", name="refresh"), a_run("CRASHED", name="gc")]
    assert the_finding(replace(healthy, failed=failed)) == (
        "failed runs",
        "warning",
        "2 in the last 24 hours: refresh (Failed), gc (Crashed).",
        f"The end of its log says why: prefect flow-run logs --tail {failed[0].id}",
    )


def test_the_report_of_a_real_server_has_a_check_for_everything_and_is_json_with_the_keys_of_always(server, workspace):
    from flows.doctor.examine import examine
    from pipeline.jsonable import to_json

    report = examine(str(workspace))
    assert report.server == server
    assert {"server", "access", "workers", "deployments", "schedules", "late runs", "failed runs"} <= {
        check.name for check in report.checks
    }
    document = to_json(report)
    assert set(document) == {"workspace", "server", "checks"}
    assert [set(row) for row in document["checks"]] == [{"name", "state", "found", "advice"}] * len(report.checks)
