"""Setting a server up, on the session's real one."""

import pytest

pytestmark = pytest.mark.prefect


@pytest.fixture
def url(prefect_server):
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value()


@pytest.fixture
def client(url):
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


def names(document, kind):
    return [row["name"] for row in document[kind]]


def test_a_second_time_nothing_is_made_again(url, client):
    from flows.deploy import deploy_all

    deploy_all(url)
    before = {name: client.read_deployment_by_name(name).id for name in ("onboard/onboard", "finetune/finetune")}
    second = deploy_all(url)
    assert {row["done"] for kind in ("pools", "deployments", "automations") for row in second[kind]} <= {
        "found",
        "updated",
    }
    assert {name: client.read_deployment_by_name(name).id for name in names(second, "deployments")} == before
    for name in names(second, "automations"):
        assert len(client.read_automations_by_name(name)) == 1


def test_fine_tuning_runs_alone_on_the_pool_of_gpus_and_outlives_its_worker(url, client):
    from flows.deploy import deploy_all

    deploy_all(url)
    deployment = client.read_deployment_by_name("finetune/finetune")
    assert (deployment.work_pool_name, deployment.entrypoint) == ("gpu", "flows.jobs.finetune")
    assert deployment.global_concurrency_limit.limit == 1
    assert deployment.concurrency_options.collision_strategy == "ENQUEUE"
    assert deployment.job_variables["stream_output"] is False


def test_every_run_sends_heartbeats_and_logs_whoever_started_its_worker(url, client):
    from flows.deploy import deploy_all

    for name in names(deploy_all(url), "deployments"):
        environment = client.read_deployment_by_name(name).job_variables["env"]
        assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
        assert environment["PREFECT_LOGGING_EXTRA_LOGGERS"] == "pipeline,storage,flows"


def test_only_runs_of_ours_are_taken_for_lost(url, client):
    from flows.deploy import TAG, deploy_all

    document = deploy_all(url)
    for name in names(document, "deployments"):
        assert client.read_deployment_by_name(name).tags == [TAG]
    for name in names(document, "automations"):
        (automation,) = client.read_automations_by_name(name)
        assert automation.trigger.match_related.root["prefect.resource.id"] == f"prefect.tag.{TAG}"


def test_a_pool_that_somebody_made_otherwise_is_kept(url, client, monkeypatch):
    from prefect.client.schemas.actions import WorkPoolCreate

    from flows import deploy

    client.create_work_pool(WorkPoolCreate(name="own", type="docker", description="of containers"), overwrite=True)
    monkeypatch.setattr(deploy, "POOLS", {**deploy.POOLS, "own": "Ours."})
    rows = deploy.deploy_all(url)["pools"]
    assert {"name": "own", "type": "docker", "done": "found"} in rows
    assert client.read_work_pool("own").description == "of containers"
