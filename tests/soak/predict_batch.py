"""`kill -9` of `headstart predict-batch` over 2,000 pictures, alone and in pairs, while pictures still arrive.

After each kill the table, if there is one, must be whole and right so far, and the ledger must hold no file twice. When
a run ends by itself its table is compared with that of a run nobody disturbed, and another output begins. Half of the
kills are aimed at commits.
"""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.onboarding import story as steps
from flows.prediction.inbox import predict_batch
from flows.progress import Quiet
from flows.requests import OnboardRequest, PredictBatchRequest
from pipeline.fingerprint import fingerprint
from storage.predictions.parts import list_parts, read_part
from storage.workspace import Workspace
from tests.benchmarks.photos import write_photos
from tests.conftest import ROOT

NUM_PHOTOS = 2000
NUM_LATE = 400  # of them arrive while runs are killed
LATE_AT_ONCE = 80
NUM_TRAINED_ON = 60
SHARE_OF_PAIRS = 0.35
SHARE_AT_COMMITS = 0.5
SECONDS_OF_A_COMMIT = 0.03
SECONDS_TO_COMMIT = 60.0  # the most to wait for one
NAME = "photos"

Table = dict[str, dict[str, str]]


@dataclass
class Outcome:
    """What happened so far."""

    kills: int = 0
    in_pairs: int = 0
    at_commits: int = 0  # within 30 ms after one
    with_table: int = 0  # killed when there was a table already, by an earlier run
    tables: int = 0  # complete ones, compared
    rows_compared: int = 0
    problems: Counter[str] = field(default_factory=Counter)


def run(scratch: Path, num_kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill until that was done often enough and the last table is complete; returns the summary."""
    dice, outcome = random.Random(seed), Outcome()
    photos = write_photos(scratch / "all", NUM_PHOTOS, 256, 256)
    trained = write_photos(scratch / NAME, NUM_TRAINED_ON, 256, 256)
    root = scratch / "workspace"
    steps.onboard(OnboardRequest(str(trained), str(root)))
    wanted_file = scratch / "wanted.csv"
    predict_batch(PredictBatchRequest(NAME, str(photos), str(wanted_file), str(root)), Quiet())
    wanted = _read(wanted_file)
    while outcome.kills < num_kills:
        trial = _Trial(scratch / f"inbox{outcome.tables}", photos, root, wanted, outcome)
        while outcome.kills < num_kills and not trial.round(dice):
            pass
        trial.finish()
    return {"ok": not outcome.problems, **vars(outcome)}


def _read(path: Path) -> Table:
    """Read a table without the times; a path that is there twice is an error."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["predicted"]
    table = {row["path"]: row for row in rows}
    assert len(table) == len(rows), f"{len(rows) - len(table)} files are there twice"
    return table


class _Trial:
    """One folder and its table, from nothing to complete."""

    usual_seconds = 25.0  # of a whole run; measured as it goes

    def __init__(self, folder: Path, photos: Path, root: Path, wanted: Mapping[str, Any], outcome: Outcome) -> None:
        self._folder, self._photos, self._root = folder, photos, root
        self._output = folder.with_suffix(".csv")
        self._wanted, self._outcome = wanted, outcome
        self._place = Workspace.open(root).ledger(fingerprint({"output": str(self._output)}))
        names = random.Random(str(folder)).sample(sorted(wanted), len(wanted))
        self._late = names[:NUM_LATE]
        self._arrive(names[NUM_LATE:])

    def _arrive(self, names: list[str]) -> None:
        for name in names:
            (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self._photos / name, self._folder / name)

    def round(self, dice: random.Random) -> bool:
        """Start one process or two, and kill them; True when all pictures had arrived and a run ended by itself."""
        self._arrive(self._late[:LATE_AT_ONCE])
        del self._late[:LATE_AT_ONCE]
        started = time.monotonic()
        paired = dice.random() < SHARE_OF_PAIRS
        had_table = self._output.exists()
        processes = [self._start() for _ in range(2 if paired else 1)]
        at_commit = self._wait(dice)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        ended = False
        for process in processes:
            _, errors = process.communicate()
            if process.returncode == -signal.SIGKILL:
                self._outcome.kills += 1
                self._outcome.in_pairs += paired
                self._outcome.at_commits += at_commit
                self._outcome.with_table += had_table
            elif process.returncode == 0:
                ended = True
                if not had_table:
                    type(self).usual_seconds = time.monotonic() - started
            else:
                self._outcome.problems[f"exit code {process.returncode}: {errors[-300:].decode()}"] += 1
        self._look()
        return ended and not self._late

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = ["predict-batch", NAME, self._folder, self._output, "--workspace", self._root]
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli.app", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def _wait(self, dice: random.Random) -> bool:
        """Wait for a moment, random or just after one of the next commits; whether it was one."""
        if dice.random() >= SHARE_AT_COMMITS:
            time.sleep(dice.random() * self.usual_seconds)
            return False
        wanted, before = dice.choice([1, 2, 3]), set(self._parts())
        deadline = time.monotonic() + SECONDS_TO_COMMIT
        while len(set(self._parts()) - before) < wanted:
            if time.monotonic() > deadline or (self._output.exists() and not self._late):
                break
            time.sleep(0.001)
        time.sleep(dice.random() * SECONDS_OF_A_COMMIT)
        return len(set(self._parts()) - before) >= wanted

    def _parts(self) -> list[Path]:
        return list_parts(self._place) if self._place.is_dir() else []

    def finish(self) -> None:
        """Let the rest arrive, let one run end, and compare everything."""
        self._arrive(self._late)
        self._late = []
        request = PredictBatchRequest(NAME, str(self._folder), str(self._output), str(self._root))
        predict_batch(request, Quiet())
        again = predict_batch(request, Quiet())
        if again["num_new"] or again["written"]:
            self._outcome.problems["a run that had nothing to do did something"] += 1
        self._look()
        found = _read(self._output)
        self._outcome.problems["files without a row"] += len(self._wanted.keys() - found.keys())
        self._outcome.problems["rows of no file"] += len(found.keys() - self._wanted.keys())
        beside = [path.name for path in self._output.parent.iterdir() if path.name.startswith(".")]
        self._outcome.problems[f"left behind: {beside}"] += len(beside)
        self._outcome.problems = +self._outcome.problems
        self._outcome.tables += 1
        self._outcome.rows_compared += len(found)
        shutil.rmtree(self._folder)

    def _look(self) -> None:
        """Whatever there is must be whole, right, and there once."""
        problems = self._outcome.problems
        rows = [row for path in self._parts() for row in read_part(path)]
        problems["files twice in the ledger"] += len(rows) - len({row.file.path for row in rows})
        if self._output.exists():
            found = _read(self._output)
            problems["predictions that differ"] += sum(self._wanted[path] != row for path, row in found.items())
        self._outcome.problems = +problems  # what did not happen is no problem
