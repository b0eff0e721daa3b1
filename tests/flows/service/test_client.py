"""Whether a server answers, and its latest runs; runs of jobs are in test_submit."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows.service.client import find_latest, find_problem, get_server, hide_password
from pipeline.errors import ServerUnreachableError
from pipeline.jsonable import to_json


@pytest.fixture
def answering():
    """Start a server that gives one answer to everything: `answering(401)` is its URL."""
    servers = []

    def start(code):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(code)
                self.end_headers()

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/api"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def closed_port(answering):
    """The URL of a server that is gone."""
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()
    return f"http://127.0.0.1:{server.server_port}/api"


@pytest.mark.parametrize("code", [200, 401])
def test_a_server_that_answers_anything_is_there(answering, code):
    assert find_problem(answering(code)) is None


def test_a_server_that_is_gone_is_named_with_the_reason(closed_port, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", closed_port)
    with pytest.raises(ServerUnreachableError, match=rf"{closed_port} \(.*refused.*\)\. Start it, or walk\."):
        get_server(", or walk")


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://nowhere/api", "http://no host/api"])
def test_what_is_no_url_is_a_problem_and_no_crash(url):
    assert find_problem(url)


def test_a_url_that_is_none_is_said_to_be_none_without_its_password():
    assert find_problem("http://user:pa:ss@host/api") == "it is not a URL"
    assert find_problem("nonsense") == "it is not a URL"


def test_what_is_told_of_a_url_is_without_its_password():
    assert hide_password("https://user:secret@host:4200/api") == "https://host:4200/api"
    assert hide_password("http://127.0.0.1:4200/api") == "http://127.0.0.1:4200/api"


@pytest.mark.prefect
def test_the_latest_runs_are_found_with_how_they_ended(server, client):
    from prefect.client.schemas.objects import State, StateType

    deployment = client.read_deployment_by_name("verify/verify")
    run = client.create_flow_run_from_deployment(deployment.id, name="checking")
    client.set_flow_run_state(run.id, State(type=StateType.FAILED, message="It broke."), force=True)
    try:
        (found,) = (row for row in find_latest(server) if row.run == str(run.id))
        assert (found.name, found.state, found.message) == ("checking", "Failed", "It broke.")
        assert set(to_json(found)) == {"run", "name", "state", "began", "seconds", "message"}
    finally:
        client.delete_flow_run(run.id)
