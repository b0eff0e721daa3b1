"""Every command of the operations page is run, in its order, in a host of its own below a temporary folder.

What takes root, systemd, Docker or another machine is held against what it names instead: `HELD` says how. systemd is
played: the units of the page are started as they say, with the environment that they name.
"""

import fnmatch
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml

from tests import factories
from tests.conftest import ROOT
from tests.soak.server import free_port, postgres, wait_until
from tests.test_docs import COMMANDS

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
LINES = [
    line.removeprefix("$ ")
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
UNITS = {
    Path(path).name: text for path, text in re.findall(r"^```ini\n# (\S+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
}
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SECONDS_TO_START, SECONDS_TO_STOP = 180, 180


# ── what is not run ──────────────────────────────────────────────────────────────────────────────


def hold_installation(words):
    """What pip is asked for exists; that it can be installed is what a build of the image shows."""
    assert (ROOT / words[words.index("--constraint") + 1]).is_file()
    (extras,) = re.findall(r"\.\[(.+)\]", words[-1])
    assert set(extras.split(",")) <= set(EXTRAS)


def hold_options(words):
    """A program that would change the machine, or log in somewhere, knows its options, if it is here."""
    words = words[1:] if words[0] == "sudo" and words[1][0] != "-" else words
    if shutil.which(words[0]):
        said = subprocess.run([words[0], "--help"], capture_output=True, text=True, check=False)
        known = said.stdout + said.stderr
        assert [word for word in words if word.startswith("--") and word not in known] == []


def hold_containers(words):
    """A command of Docker Compose names services, profiles and volumes of ours, and a command that we have."""
    rest = words[2:]
    while rest[0].startswith("--"):  # of compose itself
        assert rest[0] == "--profile"
        assert rest[1] in {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
        rest = rest[2:]
    verb, *rest = rest
    assert verb in ("build", "up", "stop", "exec", "run", "cp")
    rest = [word for word in rest if word not in ("--detach", "-T", "--rm", "--no-deps")]
    if verb in ("exec", "run"):
        service, program, *arguments = rest
        assert service in SERVICES
        assert program in ("headstart", "prefect", "tar", "pg_dump", "pg_restore")
        assert program != "headstart" or arguments[0] in COMMANDS
        mounted = [re.sub(r":ro$", "", volume).rpartition(":")[2] for volume in SERVICES[service]["volumes"]]
        for word in arguments:
            assert not word.startswith("/") or word.startswith(tuple(mounted)), word
    elif verb == "cp":
        service, _, path = rest[0].partition(":")
        assert any(volume.split(":")[1] in path for volume in SERVICES[service]["volumes"] if volume[0] != "$")
    else:
        assert set(rest) <= set(SERVICES)


HELD = {
    r"sudo /opt/headstart/bin/pip install": hold_installation,
    r"sudo useradd|sudo python3 -m venv|sudo systemctl daemon-reload|sudo --login|ssh": hold_options,
    r"docker compose": hold_containers,
}


def find_holder(line):
    return next((holder for pattern, holder in HELD.items() if re.match(pattern, line)), None)


@pytest.mark.parametrize("line", [line for line in LINES if find_holder(line)])
def test_what_is_not_run_names_what_there_is(line):
    words = shlex.split(re.sub(r" [<>] \S+$", "", line))
    find_holder(line)(words)


def test_every_line_in_a_console_is_a_command():
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert [line for block in blocks for line in block.splitlines() if not line.startswith("$ ")] == []
    assert len(LINES) > 60


def test_systemd_takes_the_units(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    for name, text in UNITS.items():
        text = re.sub(r"ExecStart=/opt/headstart/bin/\S+", "ExecStart=/bin/true", text)
        (tmp_path / name.replace("@.", "@cpu.")).write_text(text.replace("User=headstart", "User=root"))
    units = sorted(tmp_path.iterdir())
    said = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    ours = [line for line in said.stderr.splitlines() if str(tmp_path) in line or "headstart" in line]
    assert ours == []
    assert said.returncode == 0, said.stderr


def test_the_page_names_every_check_of_the_doctor():
    modules = "".join(path.read_text() for path in (ROOT / "flows" / "doctor").glob("*.py"))
    calls = r'(?:Check|of_error|_missing)\(\s*|or_ok\([^"\n]*'
    constants = r"^(?:SERVER|ACCESS) = "
    named = set(re.findall(rf'(?:{calls}|{constants})"([a-z ]+)"', modules, re.MULTILINE))
    (table,) = re.findall(r"^\| check \|.*\n.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    listed = {name for row in table.splitlines() for name in row.split("|")[1].strip().split(", ")}
    assert {"server", "access", "disk", "late runs", "pools", "datasets"} <= named
    assert named == listed


# ── Postgres ─────────────────────────────────────────────────────────────────────────────────────


def test_a_dump_of_the_database_is_restored_by_the_commands_of_the_page(tmp_path):
    if not all(map(shutil.which, ("initdb", "postgres", "pg_dump", "pg_restore", "psql"))):
        pytest.skip("needs Postgres")
    prefix = "docker compose exec -T database "
    dump, restore = (line.removeprefix(prefix) for line in LINES if line.startswith((f"{prefix}pg_",)))
    with postgres() as url:
        port = re.search(r":(\d+)/", url)[1]
        environment = os.environ | {"PGHOST": "127.0.0.1", "PGPORT": port}

        def run(command):
            command = command.replace("--username prefect", "--username headstart")
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
            )
            return done.stdout.strip()

        ask = "psql --username headstart --no-align --tuples-only --dbname prefect --command"
        run(f"{ask} 'create table runs as select generate_series(1, 9) as id'")
        run(dump)
        run(f"{ask} 'delete from runs; create table later (id int)'")
        run(restore)
        assert run(f"{ask} 'select count(*) from runs'") == "9"


# ── the page, from top to bottom ─────────────────────────────────────────────────────────────────


class Host:
    """A host below a folder: its own /etc, /opt and /srv, a shell that stays, and units that are started."""

    def __init__(self, root):
        self.root, self.port, self._running, self.said = root, free_port(), {}, []
        for place in ("etc", "opt", "srv/pictures", "srv/headstart", "copy"):
            (root / place).mkdir(parents=True)
        (root / "opt" / "headstart").symlink_to(sys.prefix)
        for name in ("prefect.yaml", "constraints.txt", ".env.example"):
            shutil.copy(ROOT / name, root / "copy")
        settings = (ROOT / "headstart.env").read_text().replace("127.0.0.1:4200", f"127.0.0.1:{self.port}")
        (root / "copy" / "headstart.env").write_text(settings)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(root / "srv/headstart"),
            "PYTHONPATH": str(ROOT),
            "TERM": "dumb",
            "COLUMNS": "200",
        }
        self._shell = subprocess.Popen(
            ["bash"],
            cwd=root / "copy",
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def close(self):
        for process in (*self._running.values(), self._shell):
            process.kill()
            process.communicate()

    def moved(self, text):
        """Move what a text names below the folder, and let it be done without being root."""
        text = re.sub(r"/(etc/headstart|opt/headstart|srv)\b", rf"{self.root}/\1", text)
        text = text.replace("sudo ", "").replace(" --group headstart", "").replace("chgrp headstart", "chgrp $(id -g)")
        return text.replace(" RUN", f" $({sys.executable} -c {shlex.quote(A_RUN)})")

    def run(self, line):
        if line.startswith("sudo systemctl"):
            return self._control(*line.split()[2:])
        self._shell.stdin.write(f"{{ {self.moved(line)}\n}} < /dev/null; echo; echo '::' $?\n")
        self._shell.stdin.flush()
        output = []
        for said in self._shell.stdout:
            if said.startswith(":: "):
                break
            output.append(said)
        code = int(said.removeprefix(":: "))
        self.said.append("".join(output))
        assert code == 0, f"$ {line}\nended with {code}:\n{self.said[-1]}\n{self.logs()}"
        return self.said[-1]

    def logs(self):
        return "".join(path.read_text()[-2000:] for path in self.root.glob("*.log"))

    # ── systemd ──────────────────────────────────────────────────────────────────────────────────

    def _control(self, verb, *names):
        names = [name.strip("'") for name in names if name != "--now"]
        found = [unit for name in names for unit in [*fnmatch.filter(self._running, name), name] if "*" not in unit]
        for unit in dict.fromkeys(found):
            if verb in ("stop", "restart"):
                self._stop(unit)
            if verb in ("start", "restart", "enable"):
                self._start(unit)

    def _stop(self, unit):
        process = self._running.pop(unit)
        process.send_signal(signal.SIGTERM)  # to it alone: KillMode=mixed
        process.wait(timeout=SECONDS_TO_STOP)

    def _start(self, unit):
        name, _, instance = unit.partition("@")
        text = self.moved(UNITS[f"{name}@.service" if instance else f"{name}.service"]).replace("%i", instance)
        environment = dict(self.environment) | {"PREFECT_SERVER_API_PORT": str(self.port)}
        for path in re.findall(r"^EnvironmentFile=(.+)", text, re.MULTILINE):
            lines = Path(path).read_text().splitlines()
            environment |= dict(line.split("=", 1) for line in lines if line and line[0] != "#")
        (command,) = re.findall(r"^ExecStart=(.+)", text, re.MULTILINE)
        with open(self.root / f"{unit}.log", "ab") as log:
            self._running[unit] = subprocess.Popen(
                shlex.split(command), cwd="/", env=environment, stdout=log, stderr=log
            )
        if not instance:
            wait_until(self._answers, SECONDS_TO_START, self.logs())

    def _answers(self):
        try:
            return urlopen(f"http://127.0.0.1:{self.port}/api/health", timeout=5).status == 200
        except OSError:
            return False


# the id of a run that waits
A_RUN = """
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
with get_client(sync_client=True) as client:
    waiting = FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED"]}}})
    print(client.read_flow_runs(flow_run_filter=waiting, limit=1)[0].id)
"""


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path / "host")
    factories.write_dataset(host.root / "srv/pictures/flowers", per_class=12)
    shutil.copytree(host.root / "srv/pictures/flowers", host.root / "srv/pictures/inbox")
    yield host
    host.close()


@pytest.mark.prefect
@pytest.mark.heavy
def test_every_command_of_the_page_does_what_it_says_in_its_order(host):
    said = {line: host.run(line) for line in LINES if not find_holder(line)}

    assert "flowers@1" in said["headstart onboard /srv/pictures/flowers --submit --wait"]
    assert "30 1 * * *" in said["prefect deployment schedule ls refresh/refresh"]
    assert len((host.root / "srv/headstart/inbox.csv").read_text().splitlines()) == 1 + 3 * 12
    # what was restored is what was there: nothing is computed again, and nothing is damaged
    assert "0 computed" in said["headstart onboard /srv/pictures/flowers --name flowers"]
    assert "No damage found." in said["headstart verify"]
    modes = [(host.root / "etc/headstart" / name).stat().st_mode & 0o777 for name in ("secrets.env", "headstart.env")]
    assert modes == [0o640, 0o640]
    # what a process prints goes to the journal
    secrets = set(re.findall(r"operator:(\w+)", (host.root / "etc/headstart/secrets.env").read_text()))
    assert secrets
    assert [secret for secret in secrets if secret in host.logs() + "".join(host.said)] == []
