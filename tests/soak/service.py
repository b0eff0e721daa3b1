"""The service under a real server and worker: killed at random, its server restarted, and many requests at once.

Needs the CIFAR-10 archive beside the repository.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from storage.datasets.manifests import read_manifest
from storage.models.versions import list_models
from storage.workspace import Workspace
from tests.conftest import ROOT, SHARED
from tests.soak.server import FINAL, Server, postgres, process_of, wait_until

SIZE = 64
NUM_TRAIN, NUM_TEST = 60, 15  # of each of ten classes, at any time
NUM_NEW = 20  # of each class, in exchange for as many, before every run
REFRESH_SECONDS = 40  # between scheduled runs
SECONDS_TO_NOTICE = 120.0  # that a run is dead
SECONDS_TO_FREE = 330.0  # a place: leases last five minutes
SECONDS_FOR_RUN = 300.0
NAME = "cifar"
VICTIMS = ("flow", "worker", "both")


@dataclass
class Outcome:
    """What happened so far."""

    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)  # of runs that were hit, by victim
    slowest_notice: float = 0.0  # until a hit run was not Running any more
    slowest_next: float = 0.0  # from there to the end of the next scheduled run
    slowest_free: float = 0.0  # until no place of a limit was held by nobody
    problems: Counter[str] = field(default_factory=Counter)


# ── kills ────────────────────────────────────────────────────────────────────────────────────────


def run_kills(scratch: Path, num_kills: int, seed: int = 0) -> dict[str, Any]:
    """Hit scheduled refreshes, their worker, or both; returns the summary."""
    dice, outcome = random.Random(seed), Outcome()
    pictures = Pictures(scratch / NAME, dice)
    file = _schedule_every(REFRESH_SECONDS, scratch / "prefect.yaml")
    with Server(scratch, file=file) as server:
        server.command("onboard", str(pictures.folder), "--size", str(SIZE))
        for number in range(num_kills):
            _hit(server, pictures, VICTIMS[number % len(VICTIMS)], dice, outcome)
        _check_whole(server, pictures, outcome)
    return {"ok": not outcome.problems, **vars(outcome)}


def _hit(server: Server, pictures: Pictures, victim: str, dice: random.Random, outcome: Outcome) -> None:
    pictures.exchange(NUM_NEW)
    run = _next_running(server)
    time.sleep(dice.uniform(0, 15))
    process = process_of(run["id"])
    if victim in ("worker", "both"):
        server.kill_worker()
    if victim in ("flow", "both") and process is not None:
        os.kill(process, signal.SIGKILL)
    hit = time.monotonic()
    outcome.kills[victim] += 1
    if victim in ("worker", "both"):
        server.start_worker()
    allowed = SECONDS_FOR_RUN if victim == "worker" else SECONDS_TO_NOTICE  # a run outlives its worker
    try:
        wait_until(lambda: server.run(run["id"])["state"]["type"] in FINAL, allowed, "still not ended")
    except RuntimeError:
        outcome.problems[f"a run is still {server.run(run['id'])['state']['name']} after its {victim} was killed"] += 1
        return
    state = server.run(run["id"])["state"]["name"]
    outcome.ends[f"{victim}: {state}"] += 1
    if victim != "worker":
        outcome.slowest_notice = max(outcome.slowest_notice, time.monotonic() - hit)
    elif state != "Completed":
        outcome.problems[f"a run whose worker was killed ended {state}"] += 1
    ended = time.monotonic()
    _wait_for_next(server, outcome)
    outcome.slowest_next = max(outcome.slowest_next, time.monotonic() - ended)
    _wait_for_places(server, outcome)


def _next_running(server: Server) -> dict[str, Any]:
    """Wait for a scheduled run to run, with a process that has begun to work."""

    def running() -> Any:
        return next((run for run in server.runs("RUNNING") if process_of(run["id"])), None)

    return dict(wait_until(running, SECONDS_FOR_RUN, "no scheduled run began"))


def _wait_for_next(server: Server, outcome: Outcome) -> None:
    """Wait until a run that began after now has completed."""
    before = {run["id"] for run in server.runs("RUNNING", *FINAL)}

    def completed() -> Any:
        return [run for run in server.runs("COMPLETED") if run["id"] not in before]

    try:
        wait_until(completed, SECONDS_FOR_RUN, "no further run completed")
    except RuntimeError:
        outcome.problems["no scheduled run completed after a kill"] += 1


def _wait_for_places(server: Server, outcome: Outcome) -> None:
    """Wait until every place that is held is held by a run."""
    began = time.monotonic()

    def free() -> bool:
        held = server.slots_in_use()
        return held <= len(server.runs("PENDING", "RUNNING", "CANCELLING"))

    try:
        wait_until(free, SECONDS_TO_FREE, "a place stays blocked")
    except RuntimeError:
        outcome.problems["a limit stays blocked"] += 1
    outcome.slowest_free = max(outcome.slowest_free, time.monotonic() - began)


def _check_whole(server: Server, pictures: Pictures, outcome: Outcome) -> None:
    """Nothing is lost: the workspace is whole, and the newest manifest is that of the folder."""
    _wait_for_next(server, outcome)
    verified = json.loads(server.command("verify", check=False).stdout)
    for finding in verified["findings"]:
        outcome.problems[f"verify: {finding['what']}: {finding['problem']}"] += 1
    workspace = Workspace.open(server.environment["HEADSTART_HOME"])
    if {image.path for image in read_manifest(workspace, NAME).images} != pictures.paths():
        outcome.problems["the manifest is not that of the folder"] += 1


def _schedule_every(seconds: int, file: Path) -> Path:
    """Write our deployments with refresh on a short interval."""
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    for deployment in document["deployments"]:
        if deployment["name"] == "refresh":
            deployment["schedules"] = [{"slug": "often", "interval": seconds}]
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return file


# ── restarts ─────────────────────────────────────────────────────────────────────────────────────


def run_restarts(scratch: Path, num_restarts: int, seed: int = 0) -> dict[str, Any]:
    """Restart the server while a run runs, on SQLite and on Postgres; every run completes."""
    dice = random.Random(seed)
    problems: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for kind in ("sqlite", "postgres"):
        folder = scratch / kind
        folder.mkdir()
        with ExitStack() as stack:
            database = stack.enter_context(postgres()) if kind == "postgres" else None
            pictures = Pictures(folder / NAME, dice)
            server = stack.enter_context(Server(folder, database=database))
            for number in range(num_restarts):
                pictures.exchange(NUM_NEW)
                params = {"folder": str(pictures.folder), "features": {"size": SIZE}}
                run_id = server.submit("onboard", params)
                wait_until(lambda: server.run(run_id)["state"]["type"] == "RUNNING", 120, "the run did not begin")  # noqa: B023
                time.sleep(dice.uniform(0, 8))
                server.stop(signal.SIGKILL if number % 2 else signal.SIGTERM)
                time.sleep(dice.uniform(0, 15))
                server.start()
                wait_until(lambda: server.run(run_id)["state"]["type"] in FINAL, SECONDS_FOR_RUN, "the run did not end")  # noqa: B023
                state = server.run(run_id)["state"]
                ends[f"{kind}: {state['name']}"] += 1
                if state["type"] != "COMPLETED":
                    problems[f"{kind}: {state['name']}: {state['message']}"] += 1
    return {"ok": not problems, "ends": ends, "problems": problems}


# ── many at once ─────────────────────────────────────────────────────────────────────────────────


def run_many(scratch: Path, num_requests: int, seed: int = 0) -> dict[str, Any]:
    """Ask for ten datasets many times at once, with one worker, on SQLite and on Postgres; returns the summary."""
    found: dict[str, dict[str, Any]] = {}
    for kind in ("sqlite", "postgres"):
        folder = scratch / kind
        folder.mkdir()
        with ExitStack() as stack:
            database = stack.enter_context(postgres()) if kind == "postgres" else None
            found[kind] = _ask_at_once(folder, database, num_requests, random.Random(seed))
    return {"ok": not any(one["problems"] for one in found.values()), **found}


def _ask_at_once(scratch: Path, database: str | None, num_requests: int, dice: random.Random) -> dict[str, Any]:
    """Each dataset is computed once, and no run fails."""
    folders = [Pictures(scratch / f"set{number}", dice, number).folder for number in range(10)]
    began = time.monotonic()
    with Server(scratch, database=database) as server:
        wanted = [folders[number % len(folders)] for number in range(num_requests)]
        dice.shuffle(wanted)
        ids = [server.submit("onboard", {"folder": str(folder), "features": {"size": SIZE}}) for folder in wanted]

        def ended() -> bool:
            return all(run["state"]["type"] in FINAL for run in server.runs() if run["id"] in ids)

        wait_until(ended, 3600, "not all ended")
        states = Counter(run["state"]["name"] for run in server.runs() if run["id"] in ids)
        workspace = Workspace.open(server.environment["HEADSTART_HOME"])
    versions = Counter(ref.name for ref in list_models(workspace))
    computed = sum(ref.record.features.num_computed for ref in list_models(workspace))
    problems: Counter[str] = Counter()
    if states != {"Completed": num_requests}:
        problems[f"not every run completed: {dict(states)}"] += 1
    if versions != dict.fromkeys((folder.name for folder in folders), 1):
        problems[f"not one version of each: {dict(versions)}"] += 1
    if computed != 10 * 10 * (NUM_TRAIN + NUM_TEST):
        problems[f"{computed} pictures were computed"] += 1
    return {
        "states": states,
        "computed": computed,
        "seconds": round(time.monotonic() - began, 1),
        # by Prefect's own services, which try again; no run or command sees them
        "locked_in_server_log": (scratch / "server.log").read_text(errors="replace").count("database is locked"),
        "problems": problems,
    }


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────


class Pictures:
    """A folder of real pictures, some of which are exchanged for others again and again."""

    def __init__(self, folder: Path, dice: random.Random, part: int = 0) -> None:
        self.folder = folder
        self._supply: dict[Path, Iterator[Path]] = {}
        whole = _unpacked(folder.parent)
        for split, number in (("train", NUM_TRAIN), ("test", NUM_TEST)):
            (source,) = whole.rglob(split)
            for label in sorted(path for path in source.iterdir() if path.is_dir()):
                place = folder / split / label.name
                place.mkdir(parents=True)
                per_set = 480 if split == "train" else 90
                own = sorted(label.iterdir())[part * per_set : (part + 1) * per_set]
                self._supply[place] = iter(own)
                for _ in range(number):
                    self._add(place)
        self._dice = dice

    def exchange(self, number: int) -> None:
        """Take away some training pictures of each class, and add as many others."""
        for place in self._supply:
            if place.parent.name == "train":
                for path in self._dice.sample(sorted(place.iterdir()), number):
                    path.unlink()
                for _ in range(number):
                    self._add(place)

    def paths(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*.*") if path.is_file()}

    def _add(self, place: Path) -> None:
        source = next(self._supply[place])
        partial = place / f".{source.name}"  # a picture appears whole: a refresh may be reading
        shutil.copy(source, partial)
        partial.rename(place / source.name)


def _unpacked(folder: Path) -> Path:
    """Unpack the archive once for a trial."""
    archive = SHARED / "data" / "cifar10.tar.xz"
    if not archive.is_file():
        sys.exit(f"There is no {archive}: this trial needs real pictures.")
    whole = folder / "whole"
    if not whole.is_dir():
        with tarfile.open(archive) as opened:
            opened.extractall(whole, filter="data")
        os.sync()  # 60,000 files on their way to the disk would hold up the server's database
    return whole
