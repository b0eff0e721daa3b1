"""A real Prefect server with our deployments on it, and workers for them: started, killed and started again."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tests.conftest import ROOT

SECONDS_TO_START = 120.0
RETRIES = 5
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Server:
    """A Prefect server, our deployments on it, and a worker for each of `pools`. A context manager."""

    def __init__(
        self,
        scratch: Path,
        pools: tuple[str, ...] = ("cpu",),
        file: Path | None = None,
        database: str | None = None,
        **environment: str,
    ) -> None:
        self._port = str(free_port())
        self._scratch, self._file = scratch, file
        self._workers: dict[str, subprocess.Popen[bytes]] = dict.fromkeys(pools)  # type: ignore[arg-type]
        self.url = f"http://127.0.0.1:{self._port}/api"
        self.environment = {
            **os.environ,
            **shipped_settings(),
            "PREFECT_HOME": str(scratch / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "false",  # `ask` has no token
            "HEADSTART_HOME": str(scratch / "workspace"),
            "PYTHONPATH": str(ROOT),
            **({"PREFECT_API_DATABASE_CONNECTION_URL": database} if database else {}),
            **environment,
        }

    def __enter__(self) -> Server:
        self.start()
        self.command("deploy", *(["--file", str(self._file)] if self._file else []))
        for pool in self._workers:
            self.start_worker(pool)
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._workers.values(), self._server):
            if process is not None:
                process.kill()
                process.wait()

    # ── processes ────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        self._server = self._start("server", "server", "start", "--port", self._port)
        wait_until(self.answers, SECONDS_TO_START, f"no server: see {self._scratch / 'server.log'}")

    def answers(self) -> bool:
        try:
            return bool(self.ask("GET", "/health"))
        except (URLError, OSError):
            return False

    def stop(self, number: int = signal.SIGKILL) -> None:
        self._server.send_signal(number)
        self._server.wait()

    def start_worker(self, pool: str = "cpu") -> None:
        # a group of its own, so that a signal to ours does not reach it and its runs
        self._workers[pool] = self._start("worker", "worker", "start", "--pool", pool, "--limit", "2")

    def worker(self, pool: str = "cpu") -> subprocess.Popen[bytes]:
        return self._workers[pool]

    def kill_worker(self, pool: str = "cpu") -> None:
        self._workers[pool].kill()
        self._workers[pool].wait()

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self._scratch / f"{name}.log", "ab") as log:
            command = [sys.executable, "-m", "prefect", *arguments]
            return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli.app", *arguments, "--json"]
        return subprocess.run(command, cwd=ROOT, env=self.environment, check=check, capture_output=True, text=True)

    # ── what it knows ────────────────────────────────────────────────────────────────────────────

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the API, as the UI does."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}{path}", data, {"content-type": "application/json"}, method=method)
        for _ in range(RETRIES):
            try:
                with urlopen(request, timeout=120) as answer:
                    return json.load(answer)
            except HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                time.sleep(1)  # SQLite was busy; Prefect's own clients try again too
        raise RuntimeError(f"{path} was refused {RETRIES} times")

    def submit(self, deployment: str, params: dict[str, Any]) -> str:
        """Make a run of a deployment with the form's parameters; returns its id."""
        found = self.ask("GET", f"/deployments/name/{deployment}/{deployment}")
        return str(
            self.ask("POST", f"/deployments/{found['id']}/create_flow_run", {"parameters": {"params": params}})["id"]
        )

    def runs(self, *types: str) -> list[dict[str, Any]]:
        """Return the runs that are in one of these states, or all."""
        wanted = {"flow_runs": {"state": {"type": {"any_": list(types)}}}} if types else {}
        found: list[dict[str, Any]] = []
        while True:
            page = self.ask("POST", "/flow_runs/filter", {**wanted, "limit": 200, "offset": len(found)})
            found += page
            if len(page) < 200:
                return found

    def run(self, run_id: str) -> dict[str, Any]:
        return dict(self.ask("GET", f"/flow_runs/{run_id}"))

    def slots_in_use(self) -> int:
        """Count the places of all limits that somebody holds."""
        limits = self.ask("POST", "/v2/concurrency_limits/filter", {})
        return sum(limit["active_slots"] for limit in limits)


def shipped_settings() -> dict[str, str]:
    """Read the settings that operators are given."""
    lines = (ROOT / "headstart.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def process_of(run_id: str) -> int | None:
    """Find the process that executes a run: its environment names it."""
    wanted = f"PREFECT__FLOW_RUN_ID={run_id}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    return int(folder.name)
            except OSError:
                continue
    return None


def wait_until(condition: Callable[[], Any], seconds: float, otherwise: str) -> Any:
    """Return what a condition gives once it gives something; an error after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{otherwise} (waited {seconds:.0f} s)")
        time.sleep(0.5)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres() -> Iterator[str]:
    """Run a Postgres of its own on the loopback; yields the URL that Prefect takes."""
    if shutil.which("initdb") is None or shutil.which("postgres") is None:
        sys.exit("This trial needs Postgres: initdb and postgres on the PATH.")
    folder = Path(tempfile.mkdtemp(prefix="headstart-postgres-"))
    user = None
    if os.getuid() == 0:  # Postgres refuses to run as root
        user = pwd.getpwnam("postgres").pw_name
        shutil.chown(folder, user)
    port = free_port()
    try:
        subprocess.run(
            ["initdb", "-D", folder / "data", "-A", "trust", "-U", "headstart"],
            user=user,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        options = ["-D", folder / "data", "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"]
        with open(os.devnull, "wb") as log:
            process = subprocess.Popen(["postgres", *options], user=user, stdout=log, stderr=log)
        try:
            create = ["createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "headstart", "prefect"]
            wait_until(
                lambda: subprocess.run(create, check=False, capture_output=True).returncode == 0, 60, "no Postgres"
            )
            yield f"postgresql+asyncpg://headstart@127.0.0.1:{port}/prefect"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
