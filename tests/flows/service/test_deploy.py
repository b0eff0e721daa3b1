"""Setting a server up, on the session's real one."""

import json
import subprocess
import sys
from datetime import timedelta
from urllib.request import Request, urlopen
from uuid import UUID

import pytest

from pipeline.errors import ConflictError, NotFoundError
from pipeline.jsonable import to_json
from storage.workspace import Workspace
from tests.conftest import ROOT

pytestmark = pytest.mark.prefect

DEPLOYMENTS = {"onboard", "refresh", "extract", "fine-tune", "predict-batch", "verify", "gc"}
AUTOMATIONS = {"headstart: lost runs", "headstart: runs that never began"}


def names(rows):
    """Return the names of rows that there must be."""
    found = [row.name for row in rows]
    assert found
    return found


def pause(server, deployment, schedule, active=False):
    """Pause a schedule, or resume it, as the UI does."""
    url, body = f"{server}/deployments/{deployment}/schedules/{schedule}", json.dumps({"active": active})
    urlopen(Request(url, body.encode(), {"content-type": "application/json"}, method="PATCH")).close()


def test_every_flow_has_a_deployment_of_its_name_on_a_pool(deployed):
    assert names(deployed.deployments) == [f"{name}/{name}" for name in names_in_file()]
    assert set(names_in_file()) == DEPLOYMENTS
    assert {row.pool for row in deployed.deployments} == {"cpu", "gpu"}
    assert all(row.limit for row in deployed.deployments)


def test_the_result_is_json_with_the_keys_of_always(deployed):
    document = to_json(deployed)
    assert set(document) == {"server", "file", "pools", "deployments", "deleted_schedules", "automations"}
    assert [set(row) for row in document["pools"]] == [{"name", "type", "done"}] * 2
    assert [set(row) for row in document["deployments"]] == [{"name", "pool", "limit", "schedules", "done"}] * 7
    (refresh,) = (row for row in document["deployments"] if row["name"] == "refresh/refresh")
    assert refresh["schedules"] == [{"slug": "nightly", "when": "0 3 * * * (Etc/UTC)", "active": True}]
    assert [set(row) for row in document["automations"]] == [{"name", "done"}] * len(AUTOMATIONS)


def names_in_file():
    import yaml

    return [row["name"] for row in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]]


def test_a_second_time_nothing_is_made_again_and_what_was_paused_stays_paused(deployed, client):
    from flows.service.deploy import deploy_all

    collecting = client.read_deployment_by_name("gc/gc")
    (schedule,) = collecting.schedules
    pause(deployed.server, collecting.id, schedule.id)
    before = {name: client.read_deployment_by_name(name).id for name in names(deployed.deployments)}
    second = deploy_all(deployed.server)
    assert {row.done for row in second.pools} == {"found"}
    assert {row.done for row in (*second.deployments, *second.automations)} == {"updated"}
    assert {name: client.read_deployment_by_name(name).id for name in names(second.deployments)} == before
    for name in names(second.automations):
        assert len(client.read_automations_by_name(name)) == 1
    (after,) = client.read_deployment_by_name("gc/gc").schedules
    assert (after.id, after.active, after.parameters) == (schedule.id, False, schedule.parameters)


@pytest.mark.parametrize("name", ["predict-batch/predict-batch", "refresh/refresh"])
def test_a_schedule_that_was_made_in_the_ui_stays_as_it_was(deployed, client, name):
    from flows.service.deploy import deploy_all

    deployment = client.read_deployment_by_name(name)
    others = {row.id for row in deployment.schedules}
    made = make_in_ui(deployed.server, deployment.id)
    try:
        for _ in range(2):
            assert deploy_all(deployed.server).deleted_schedules == ()
            schedules = client.read_deployment_by_name(name).schedules
            assert {row.id for row in schedules} == {*others, UUID(made["id"])}
            (after,) = (row for row in schedules if row.id not in others)
            assert (after.active, after.parameters) == (False, made["parameters"])
            assert (after.schedule.interval, after.schedule.timezone) == (timedelta(minutes=15), "Europe/Vienna")
    finally:
        client.delete_deployment_schedule(deployment.id, made["id"])


def make_in_ui(server, deployment):
    """Make a paused schedule as the UI makes it: without a slug."""
    params = {"params": {"model": "flowers", "folder": "/pictures/inbox", "output": "/pictures/inbox.csv"}}
    body = {"active": False, "schedule": {"interval": 900, "timezone": "Europe/Vienna"}, "parameters": params}
    url = f"{server}/deployments/{deployment}/schedules"
    with urlopen(Request(url, json.dumps([body]).encode(), {"content-type": "application/json"})) as answer:
        (made,) = json.load(answer)
    return made


def test_an_older_server_gets_todays_entry_points_and_keeps_its_schedules_pauses_and_waiting_runs(
    deployed, server, client, workspace
):
    from prefect.client.schemas.actions import DeploymentUpdate

    from flows.service.deploy import deploy_all, read_deployments

    Workspace.open(workspace)
    for found in read_deployments(client).values():  # as headstart deployed them before its modules moved
        old = found.entrypoint.replace("flows.service.flows.", "flows.jobs.")
        client.update_deployment(found.id, DeploymentUpdate(entrypoint=old))
    before = read_deployments(client)
    assert {found.entrypoint.rpartition(".")[0] for found in before.values()} == {"flows.jobs"}
    by_hand = make_in_ui(deployed.server, before["verify/verify"].id)
    (nightly,) = before["refresh/refresh"].schedules
    pause(deployed.server, before["refresh/refresh"].id, nightly.id)
    waiting = client.create_flow_run_from_deployment(
        before["verify/verify"].id, parameters={"params": {"workspace": str(workspace)}}
    )
    try:
        assert deploy_all(deployed.server).deleted_schedules == ()
        after = read_deployments(client)
        assert {found.entrypoint.rpartition(".")[0] for found in after.values()} == {"flows.service.flows"}
        assert {name: found.id for name, found in after.items()} == {name: found.id for name, found in before.items()}
        for name, found in before.items():
            kept = {row.id for row in found.schedules} | ({UUID(by_hand["id"])} if name == "verify/verify" else set())
            assert {row.id for row in after[name].schedules} == kept
        assert [row.active for row in after["refresh/refresh"].schedules] == [False]
        # as a worker runs it: in a process that loads the flow by the entry point of its deployment
        command = [sys.executable, "-m", "prefect", "flow-run", "execute", str(waiting.id)]
        done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)
        state = client.read_flow_run(waiting.id).state
        assert (state.name, state.message) == ("Completed", "No damage found."), done.stderr
    finally:
        pause(deployed.server, before["refresh/refresh"].id, nightly.id, active=True)
        client.delete_deployment_schedule(before["verify/verify"].id, by_hand["id"])
        client.delete_flow_run(waiting.id)


def test_a_file_that_names_the_entry_points_of_an_older_headstart_says_how_to_change_it(deployed, client, tmp_path):
    from flows.service.deploy import deploy_all

    own = tmp_path / "own prefect.yaml"
    own.write_text((ROOT / "prefect.yaml").read_text().replace("flows.service.flows.", "flows.jobs."))
    before = client.read_deployment_by_name("gc/gc").updated
    with pytest.raises(ConflictError, match="entry points of an older headstart") as refused:
        deploy_all(deployed.server, str(own))
    assert client.read_deployment_by_name("gc/gc").updated == before
    subprocess.run(str(refused.value).partition("deploy again: ")[2], shell=True, check=True)
    assert own.read_text() == (ROOT / "prefect.yaml").read_text()


def test_a_schedule_that_the_file_has_no_more_is_deleted(deployed, tmp_path):
    from flows.service.deploy import deploy_all

    file = tmp_path / "prefect.yaml"
    file.write_text((ROOT / "prefect.yaml").read_text().replace("slug: nightly", "slug: at-night"))
    try:
        second = deploy_all(deployed.server, str(file))
        assert second.deleted_schedules == ("refresh/nightly",)
        assert slugs(second) == ["at-night"]
    finally:
        third = deploy_all(deployed.server)
    assert third.deleted_schedules == ("refresh/at-night",)
    assert slugs(third) == ["nightly"]


def slugs(result):
    (refresh,) = (row for row in result.deployments if row.name == "refresh/refresh")
    return [row.slug for row in refresh.schedules]


def test_a_schedule_has_its_time_zone_and_its_parameters(deployed, client):
    (nightly,) = client.read_deployment_by_name("refresh/refresh").schedules
    assert (nightly.schedule.cron, nightly.schedule.timezone, nightly.active) == ("0 3 * * *", "Etc/UTC", True)
    (weekly,) = client.read_deployment_by_name("gc/gc").schedules
    assert weekly.schedule.interval == timedelta(days=7)
    assert weekly.parameters == {"params": {"delete": True, "older_than": "30d"}}
    said = {row.name: [schedule.when for schedule in row.schedules] for row in deployed.deployments}
    assert said["refresh/refresh"] == ["0 3 * * * (Etc/UTC)"]
    assert said["gc/gc"] == ["every 7 days (Etc/UTC)"]


def test_fine_tuning_runs_alone_on_the_pool_of_gpus(deployed, client):
    deployment = client.read_deployment_by_name("fine-tune/fine-tune")
    assert (deployment.work_pool_name, deployment.entrypoint) == ("gpu", "flows.service.flows.finetune")
    assert deployment.global_concurrency_limit.limit == 1
    assert deployment.concurrency_options.collision_strategy == "ENQUEUE"


def test_every_run_sends_heartbeats_and_logs_and_outlives_its_worker_whoever_started_that(deployed, client):
    from importlib.metadata import version

    from flows.service.deploy import HEARTBEAT_SECONDS

    for name in names(deployed.deployments):
        deployment = client.read_deployment_by_name(name)
        environment = deployment.job_variables["env"]
        assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_SECONDS)
        assert environment["PREFECT_LOGGING_EXTRA_LOGGERS"] == "pipeline,storage,flows"
        assert deployment.job_variables["stream_output"] is False
        assert (deployment.version, deployment.pull_steps) == (version("headstart"), [])


def test_only_runs_of_ours_are_taken_for_lost(deployed, client):
    from flows.service.deploy import TAG

    for name in names(deployed.deployments):
        assert client.read_deployment_by_name(name).tags == [TAG]
    assert set(names(deployed.automations)) == AUTOMATIONS
    for name in names(deployed.automations):
        (automation,) = client.read_automations_by_name(name)
        assert automation.trigger.match_related.root["prefect.resource.id"] == f"prefect.tag.{TAG}"


def test_a_pool_that_somebody_made_otherwise_is_kept(client):
    from prefect.client.schemas.actions import WorkPoolCreate

    from flows.service.deploy import PoolRow, _make_pool

    client.create_work_pool(WorkPoolCreate(name="own", type="docker", description="of containers"), overwrite=True)
    assert _make_pool(client, "own", "Ours.") == PoolRow("own", "docker", "found")
    assert client.read_work_pool("own").description == "of containers"


def test_a_file_that_is_not_there_or_cannot_be_applied_is_an_error_that_names_it(deployed, tmp_path):
    from flows.service.deploy import deploy_all

    own = tmp_path / "own.yaml"
    with pytest.raises(NotFoundError, match=r"own\.yaml\. Name one with --file"):
        deploy_all(deployed.server, str(own))
    own.write_text(
        "deployments: [{name: own, entrypoint: flows.service.flows.absent, work_pool: {name: cpu}}]\npull: []\n"
    )
    with pytest.raises(ConflictError, match=r"could not deploy .*own.yaml: .*absent"):
        deploy_all(deployed.server, str(own))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("deployments: [", "is not YAML: while parsing"),
        ("deployment: []", "KeyError: 'deployments'"),
        ("- a list", "TypeError"),
        (
            "deployments: [{name: gc, entrypoint: flows.service.flows.gc, schedules: [{interval: 9}]}]",
            "KeyError: 'slug'",
        ),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_told_before_anything_is_done(deployed, client, tmp_path, text, said):
    from flows.service.deploy import deploy_all

    own = tmp_path / "own.yaml"
    own.write_text(text)
    before = client.read_deployment_by_name("gc/gc").updated
    with pytest.raises(ConflictError, match=rf"own\.yaml .*{said}"):
        deploy_all(deployed.server, str(own))
    assert client.read_deployment_by_name("gc/gc").updated == before
