"""Who gets in, what leaks and who is called, on a real server with credentials, a worker and a run on it.

Every process of it runs as on a machine without a network: what leads out is refused and written down.
"""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests import factories
from tests.soak.server import Server, free_port
from tests.test_containers import SETTINGS

pytestmark = [pytest.mark.prefect, pytest.mark.heavy]

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "correct-horse-battery"
AUTH = f"operator:{PASSWORD}"
# of the server's database, which no client and no run needs to know
DATABASE_PASSWORD = "staple-of-the-database"
DATABASE_URL = f"postgresql+asyncpg://prefect:{DATABASE_PASSWORD}@127.0.0.1/prefect"

# Python imports it at start. Refuses every address and every name but this machine's, and notes it.
GUARD = """
import os, socket, sys

LOCAL = ("127.", "::1", "localhost", "0.0.0.0", "::ffff:127.", socket.gethostname())

def check(what, place):
    place = place.decode() if isinstance(place, bytes) else place
    if place and not str(place).startswith(LOCAL):
        with open(os.environ["GUARD_LOG"], "a") as log:
            print(os.getpid(), what, place, sys.argv[:3], file=log)
        raise OSError(101, "Network is unreachable")

def guarded(name):
    method = getattr(socket.socket, name)
    def connect(self, address):
        if isinstance(address, tuple):
            check(name, address[0])
        return method(self, address)
    return connect

look_up = socket.getaddrinfo

def getaddrinfo(host, *arguments, **options):
    check("getaddrinfo", host)
    return look_up(host, *arguments, **options)

socket.socket.connect, socket.socket.connect_ex = guarded("connect"), guarded("connect_ex")
socket.getaddrinfo = getaddrinfo
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A server that wants credentials, as `headstart.env` sets it up otherwise, and what was done with it:

    `server`; `run(*arguments, **environment)` is a command; `onboarded` the one that had a worker do its work.
    """
    scratch = tmp_path_factory.mktemp("service")
    (scratch / "guard").mkdir()
    (scratch / "guard" / "sitecustomize.py").write_text(GUARD)
    log = scratch / "outward.log"
    log.touch()
    environment = {
        **{key: value for key, value in SETTINGS.items() if key != "PREFECT_API_URL"},
        "PYTHONPATH": os.pathsep.join([str(scratch / "guard"), str(ROOT)]),
        "GUARD_LOG": str(log),
        "PREFECT_SERVER_API_AUTH_STRING": AUTH,
    }
    server = Server(scratch, pools=("cpu",), **environment)
    server.environment.pop("PREFECT_API_AUTH_STRING", None)
    server.start()
    for key in ("PREFECT_SERVER_API_AUTH_STRING", *(key for key in SETTINGS if key.startswith("PREFECT_SERVER_"))):
        del server.environment[key]  # of the server alone; from here on it is the clients'
    server.environment |= {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": DATABASE_URL,
        # a machine's second worker could not take the port
        "PREFECT_WORKER_WEBSERVER_PORT": str(free_port()),
    }
    said = []

    def run(*arguments, **changed):
        finished = subprocess.run(
            [sys.executable, "-m", "flows.cli.app", *map(str, arguments)],
            cwd=scratch,
            env=server.environment | changed,
            capture_output=True,
            text=True,
            check=False,
        )
        said.append(finished.stdout + finished.stderr)
        return finished

    signed_in = {"PREFECT_API_AUTH_STRING": AUTH}
    try:
        deployed = run("deploy", **signed_in)
        server.environment |= signed_in
        server.start_worker()
        del server.environment["PREFECT_API_AUTH_STRING"]
        pictures = factories.write_dataset(scratch / "shapes")
        onboarded = run("onboard", pictures, "--size", "64", "--submit", "--wait", "--json", **signed_in)
        yield SimpleNamespace(
            server=server, run=run, deployed=deployed, onboarded=onboarded, said=said, log=log, scratch=scratch
        )
    finally:
        server.__exit__()


def ask(service, method, path, body=None, auth=AUTH):
    """Ask the API as a stranger's script would, with no token of Prefect's."""
    headers = {"content-type": "application/json"}
    if auth:
        headers["authorization"] = f"Basic {base64.b64encode(auth.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(f"{service.server.url}{path}", data, headers, method=method), timeout=60) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, error.read().decode()


def through_prefect(service, script):
    """Run a script on Prefect's own client; returns the JSON that it prints."""
    finished = subprocess.run(
        [sys.executable, "-c", script],
        env=service.server.environment | {"PREFECT_API_AUTH_STRING": AUTH},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(finished.stdout)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux tells who listens")
def test_the_server_listens_on_the_loopback_alone(service):
    port = f"{int(service.server.url.rpartition(':')[2].partition('/')[0]):04X}"
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    listening = [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[1].endswith(f":{port}")]
    assert listening == ["0100007F"]  # 127.0.0.1


@pytest.mark.parametrize("credentials", [{}, {"PREFECT_API_AUTH_STRING": "operator:guess"}], ids=["none", "wrong"])
@pytest.mark.parametrize(("command", "code"), [("deploy", 5), ("onboard", 5), ("jobs", 0)])  # jobs shows what it can
def test_without_credentials_a_command_says_what_to_set(service, command, code, credentials):
    arguments = [command, service.scratch / "shapes", "--submit"] if command == "onboard" else [command]
    finished = service.run(*arguments, **credentials)
    assert finished.returncode == code, finished.stderr
    assert "wants credentials. Set PREFECT_API_AUTH_STRING" in " ".join(finished.stderr.split())


def test_with_credentials_the_server_is_set_up_and_a_worker_does_its_work(service):
    assert service.deployed.returncode == 0, service.deployed.stderr
    assert service.onboarded.returncode == 0, service.onboarded.stderr
    assert json.loads(service.onboarded.stdout)["state"] == "Completed"


def test_a_stranger_reads_nothing_and_starts_nothing(service):
    for method, path, body in (
        ("POST", "/flow_runs/filter", {}),
        ("GET", "/deployments/name/onboard/onboard", None),
        ("POST", "/logs/filter", {}),
    ):
        assert ask(service, method, path, body, auth=None)[0] in (401, 403), path


def test_a_request_that_changes_anything_needs_a_token_that_another_site_cannot_know(service):
    status, said = ask(service, "POST", "/flow_runs/filter", {})
    assert (status, "CSRF" in said) == (403, True)


def test_the_scheduler_makes_runs_of_every_schedule(service):
    """Of one by the calendar and one by an interval: a server that silently makes none runs nothing by itself."""
    script = (
        "import json, time\n"
        "from prefect.client.orchestration import get_client\n"
        "from prefect.client.schemas.filters import FlowRunFilter\n"
        "waiting = FlowRunFilter.model_validate({'state': {'type': {'any_': ['SCHEDULED']}}})\n"
        "with get_client(sync_client=True) as client:\n"
        "    wanted = {str(row.id): row.name for row in client.read_deployments()\n"
        "        if any(schedule.active for schedule in row.schedules)}\n"
        "    for _ in range(120):\n"
        "        made = {str(run.deployment_id) for run in client.read_flow_runs(flow_run_filter=waiting)}\n"
        "        if made >= wanted.keys():\n"
        "            break\n"
        "        time.sleep(1)\n"
        "    print(json.dumps([sorted(wanted.values()), sorted(wanted[key] for key in made & wanted.keys())]))\n"
    )
    wanted, made = through_prefect(service, script)
    assert {"refresh", "gc"} <= set(wanted)
    assert made == wanted


def test_no_secret_is_in_what_the_server_shows(service):
    shown = through_prefect(
        service,
        "import json\n"
        "from prefect.client.orchestration import get_client\n"
        "with get_client(sync_client=True) as client:\n"
        "    pages = [\n"
        "        client.read_deployments(), client.read_flow_runs(), client.read_task_runs(), client.read_logs(),\n"
        "        client.read_artifacts(), client.read_work_pools(),\n"
        "    ]\n"
        "    print(json.dumps([[row.model_dump_json() for row in page] for page in pages]))\n",
    )
    assert all(shown)
    assert secrets_in(json.dumps(shown)) == []


def test_no_secret_is_in_what_anything_printed(service):
    logs = [path.read_text() for path in service.scratch.glob("*.log")]
    assert len(logs) == 3  # of the server, of the worker, of what was refused
    assert secrets_in("\n".join([*logs, *service.said])) == []


def test_no_secret_is_in_the_workspace(service):
    files = [path for path in (service.scratch / "workspace").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if secrets_in(path.read_bytes().decode("latin-1"))] == []


def secrets_in(text):
    encoded = base64.b64encode(AUTH.encode()).decode()
    return [secret for secret in (PASSWORD, DATABASE_PASSWORD, encoded) if secret in text]


def test_nothing_outside_was_called_by_server_worker_run_or_command(service):
    assert service.log.read_text() == ""


def test_a_call_to_outside_would_have_been_seen(service, tmp_path):
    log = tmp_path / "outward.log"
    script = "import urllib.request\nurllib.request.urlopen('http://192.0.2.1/')"  # an address that is nobody's
    finished = subprocess.run(
        [sys.executable, "-c", script],
        env=service.server.environment | {"GUARD_LOG": str(log)},
        capture_output=True,
        check=False,
    )
    assert finished.returncode == 1
    assert "192.0.2.1" in log.read_text()
