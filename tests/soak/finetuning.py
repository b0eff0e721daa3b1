"""`kill -9` of fine-tuning jobs that a real Prefect server schedules and a real worker runs, now and then of both.

Every killed attempt is followed by another one, until the job ends; then its curve, its steps and the versions of its
model are checked, and another job begins. Needs the CIFAR-10 archive beside the repository.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sys
import tarfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.finetuning.job import get_job_plan
from flows.onboarding import story as steps
from flows.requests import FinetuneRequest, OnboardRequest
from storage.jobs.folder import find_outcome
from storage.models.versions import list_models
from storage.workspace import Workspace
from tests.conftest import SHARED
from tests.soak.server import SECONDS_TO_START, Server

NUM_TRAIN, NUM_TEST = 200, 20  # of each class
SIZE = 64
EPOCHS = 6
CHECKPOINT_SECONDS = 3.0
SLACK_SECONDS = 3.0  # to finish a step and write the checkpoint that is due, on a busy machine
WITH_WORKER = 7  # every seventh kill takes the worker as well, and the server must find out by itself
SECONDS_TO_NOTICE = 150.0  # that a run is dead: the automation waits for 90
NAME = "cifar"
FINAL = ("Completed", "Failed", "Crashed", "Cancelled")


@dataclass
class Outcome:
    """What happened so far."""

    kills: int = 0
    kills_of_worker: int = 0
    in_training: int = 0  # kills after the attempt's first checkpoint
    jobs: int = 0
    attempts: int = 0
    most_lost_seconds: float = 0.0  # between the newest checkpoint and the kill
    slowest_notice: float = 0.0  # until the server called a killed run Crashed
    problems: Counter[str] = field(default_factory=Counter)


def run(scratch: Path, num_kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill until that was done often enough and the last job has ended; returns the summary."""
    dice, outcome = random.Random(seed), Outcome()
    workspace = scratch / "workspace"
    steps.onboard(OnboardRequest(str(_unpack(scratch / NAME)), str(workspace), size=SIZE))
    with Server(scratch, ("gpu",)) as server:
        while outcome.kills < num_kills:
            # the seed of another job is its number of epochs: other jobs, other ids
            job = _Job(server, workspace, EPOCHS + outcome.jobs, outcome)
            job.run_to_the_end(dice, num_kills)
            outcome.jobs += 1
    if outcome.most_lost_seconds > CHECKPOINT_SECONDS + SLACK_SECONDS:
        outcome.problems["more than a checkpoint interval was lost"] += 1
    return {"ok": not outcome.problems, **vars(outcome)}


def _unpack(folder: Path) -> Path:
    """Take a small part of CIFAR-10, on which fine-tuning beats the head for certain."""
    archive = SHARED / "data" / "cifar10.tar.xz"
    if not archive.is_file():
        sys.exit(f"There is no {archive}: this trial needs real pictures.")
    whole = folder.with_name("whole")
    with tarfile.open(archive) as opened:
        opened.extractall(whole, filter="data")
    for split, number in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        (source,) = whole.rglob(split)
        for label in sorted(source.iterdir()):
            (folder / split / label.name).mkdir(parents=True)
            for path in sorted(label.iterdir())[:number]:
                shutil.copy(path, folder / split / label.name)
    shutil.rmtree(whole)
    return folder


class _Job:
    """One job, from its first attempt to its outcome."""

    def __init__(self, server: Server, workspace: Path, epochs: int, outcome: Outcome) -> None:
        self._server, self._workspace, self._outcome = server, workspace, outcome
        self._epochs = epochs
        self._request = FinetuneRequest(NAME, str(workspace), epochs, checkpoint_seconds=CHECKPOINT_SECONDS)
        self.id = get_job_plan(self._request).id
        self._folder = workspace / "jobs" / self.id
        self._versions = len(list_models(Workspace.open(workspace)))

    def run_to_the_end(self, dice: random.Random, num_kills: int) -> None:
        while find_outcome(Workspace.open(self._workspace), self.id) is None:
            self._outcome.attempts += 1
            self._submit()
            process = self._wait_for_process()
            if process is not None and self._outcome.kills < num_kills:
                time.sleep(dice.uniform(0, 30))
                self._kill(process)
            self._wait_for_end()
        self._check()

    def _submit(self) -> None:
        arguments = ["finetune", NAME, "--epochs", str(self._epochs), "--workspace", str(self._workspace), "--submit"]
        arguments += ["--checkpoint-seconds", str(CHECKPOINT_SECONDS)]
        retry = ["--retry"] if self._run() else []
        self._server.command(*arguments, *retry)

    def _run(self) -> dict[str, Any] | None:
        """What the server says of the newest attempt."""
        listed = json.loads(self._server.command("jobs", "--workspace", str(self._workspace)).stdout)["jobs"]
        return next((row for row in listed if row["job"] == self.id and row["run"]), None)

    def _wait_for_process(self) -> int | None:
        """Return the process that holds the job's lock; None if the job has ended meanwhile."""
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline:
            if (process := _holder_of(self._folder / "lock")) is not None:
                return process
            if find_outcome(Workspace.open(self._workspace), self.id):
                return None
            time.sleep(0.2)
        raise RuntimeError(f"nobody began attempt {self._outcome.attempts} of job {self.id}")

    def _kill(self, process: int) -> None:
        outcome = self._outcome
        outcome.kills += 1
        newest, begun = self._newest_checkpoint(), _begun(process)
        with_worker = outcome.kills % WITH_WORKER == 0
        if with_worker:
            outcome.kills_of_worker += 1
            self._server.kill_worker("gpu")
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:  # it has just ended by itself
            return
        if newest is not None and newest > begun:
            outcome.in_training += 1
            outcome.most_lost_seconds = max(outcome.most_lost_seconds, time.time() - newest)
        if with_worker:
            self._server.start_worker("gpu")

    def _newest_checkpoint(self) -> float | None:
        times = []
        for path in self._folder.rglob("*.h5"):
            try:
                times.append(path.stat().st_mtime)
            except FileNotFoundError:  # its place was taken by a newer one
                continue
        return max(times, default=None)

    def _wait_for_end(self) -> None:
        """Wait until the server knows how the attempt ended."""
        started = time.monotonic()
        while (run := self._run()) is None or run["run_state"] not in FINAL:
            ended = _holder_of(self._folder / "lock") is None
            started = started if ended else time.monotonic()
            if time.monotonic() - started > SECONDS_TO_NOTICE:
                self._outcome.problems[f"a dead run is still {run and run['run_state']}"] += 1
                return
            time.sleep(1)
        if run["run_state"] == "Crashed":
            self._outcome.slowest_notice = max(self._outcome.slowest_notice, time.monotonic() - started)
        elif run["run_state"] != "Completed":
            self._outcome.problems[f"an attempt ended {run['run_state']}"] += 1

    def _check(self) -> None:
        found = find_outcome(Workspace.open(self._workspace), self.id)
        assert found is not None
        epochs = [row["epoch"] for row in found["curve"]]
        step = [row["step"] for row in found["curve"]]
        if epochs != [*range(len(epochs))] or len(set(step)) != len(step):
            self._outcome.problems["an epoch is missing, or there twice"] += 1
        if len({later - earlier for earlier, later in itertools.pairwise(step)}) != 1:
            self._outcome.problems["an epoch has too few steps, or too many"] += 1
        new = len(list_models(Workspace.open(self._workspace))) - self._versions
        if new != int(found["gate"]["passed"]):
            self._outcome.problems[f"{new} new versions of a job whose gate said {found['gate']['passed']}"] += 1


def _holder_of(lock: Path) -> int | None:
    """Find the process that has a file locked, from what the kernel lists."""
    try:
        inode = lock.stat().st_ino
    except FileNotFoundError:
        return None
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "FLOCK" in fields and "->" not in fields and fields[5].endswith(f":{inode}"):
            return int(fields[4])
    return None


def _begun(process: int) -> float:
    """When a process began, seconds since 1970; never for one that has ended."""
    try:
        return os.stat(f"/proc/{process}").st_mtime
    except FileNotFoundError:
        return float("inf")
