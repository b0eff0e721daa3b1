"""`kill -9` of real extractions, alone and in pairs on one workspace, as often as one likes.

After each kill the store is opened and everything in it compared with a store that was never interrupted; half of the
kills are aimed at commits. When a store is complete it is verified, and another one begins.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flows.features import extraction
from flows.features.backbone import backbone_files
from flows.progress import Quiet
from flows.requests import OnboardRequest
from pipeline.backbones.table import DEFAULT_BACKBONE, get_backbone
from pipeline.types import Array, Digest
from storage.datasets.manifests import read_manifest
from storage.features.writer import COMMIT_SECONDS, FeatureWriter
from storage.maintenance.verification import Verification
from storage.workspace import Workspace
from tests import factories
from tests.benchmarks.photos import write_photos

NUM_PHOTOS = 400
SHARD_ROWS = 64
SHARE_OF_PAIRS = 0.35
SHARE_AT_COMMITS = 0.5
SECONDS_OF_A_COMMIT = 0.03
SECONDS_TO_OPEN = 1.0  # the most that opening the store may take after a kill
SPEC = get_backbone(DEFAULT_BACKBONE)


@dataclass
class Outcome:
    """What happened so far."""

    kills: int = 0
    in_pairs: int = 0
    in_commits: int = 0
    completed_runs: int = 0
    completed_stores: int = 0
    rows_computed: int = 0
    rows_recomputed: int = 0
    most_lost_rows: int = 0  # that one writer had computed and not committed
    most_lost_seconds: float = 0.0  # since the first of them
    slowest_open: float = 0.0
    problems: Counter[str] = field(default_factory=Counter)


def run(scratch: Path, num_kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill until that was done often enough; returns the summary."""
    dice = random.Random(seed)
    photos = write_photos(scratch / "photos", NUM_PHOTOS, 256, 256)
    compiled = Workspace.open(scratch / "compiled")
    backbone_files(compiled, SPEC)
    wanted = _uninterrupted(photos, compiled)
    outcome = Outcome()
    number = 0
    while outcome.kills < num_kills:
        trial = _Trial(photos, _workspace(scratch / f"workspace{number}", compiled), wanted, outcome)
        number += 1
        while outcome.kills < num_kills and not trial.is_complete():
            trial.round(dice)
        trial.finish()
    allowed = {
        "most_lost_rows": SHARD_ROWS,
        "most_lost_seconds": COMMIT_SECONDS,
        "rows_recomputed": outcome.kills * SHARD_ROWS,
        "slowest_open": SECONDS_TO_OPEN,
    }
    for name, most in allowed.items():
        if getattr(outcome, name) > most:
            outcome.problems[f"{name} is more than {most}"] += 1
    return {"ok": not outcome.problems, **vars(outcome)}


def _workspace(root: Path, compiled: Workspace) -> Workspace:
    """A workspace that has nothing but the compiled network."""
    workspace = Workspace.open(root)
    workspace.engines.symlink_to(compiled.engines)
    return workspace


def _uninterrupted(photos: Path, compiled: Workspace) -> dict[str, dict[Digest, Array]]:
    """Features by tap and picture of a run that nobody disturbs."""
    dataset = factories.scan(OnboardRequest(str(photos), str(compiled.root)))
    extraction.extract(compiled, dataset, SPEC)
    digests = [image.digest for image in read_manifest(compiled, dataset.name, dataset.fingerprint).images]
    store = FeatureWriter(compiled, SPEC.space())
    taps = (tap.name for tap in SPEC.taps)
    return {tap: dict(zip(digests, store.read(digests, tap), strict=True)) for tap in taps}


class _Writer:
    """A process that extracts, and what it says of itself."""

    def __init__(self, photos: Path, root: Path) -> None:
        reading, writing = os.pipe()
        arguments = [str(writing), str(SHARD_ROWS), "extract", str(photos), "--json", "--workspace", str(root)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.extraction", *arguments],
            pass_fds=[writing],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        os.close(writing)
        self.computed: list[str] = []
        self.committed: set[str] = set()
        self.num_commits = 0  # that have begun
        self.in_commit = False
        self.lost_seconds = 0.0
        self._first_lost: float | None = None  # when the first row was computed that is not committed
        self.news = threading.Condition()
        self._listener = threading.Thread(target=self._listen, args=(reading,))
        self._listener.start()

    def _listen(self, reading: int) -> None:
        with open(reading, encoding="ascii") as lines:
            for line in lines:
                what, *digests = line.split()
                with self.news:
                    if not line.endswith("\n"):  # killed while it said so
                        break
                    self._note(what, digests)
                    self.news.notify_all()
        with self.news:
            self.num_commits = sys.maxsize  # nobody needs to wait any longer
            self.news.notify_all()

    def _note(self, what: str, digests: list[str]) -> None:
        self.in_commit = what == "committing"
        if what == "computed":
            self.computed += digests
            self._first_lost = self._first_lost or time.monotonic()
        elif what == "committed":
            self.committed.update(digests)
            self._first_lost = None
        else:
            self.num_commits += 1

    def kill(self, dice: random.Random, usual_seconds: float) -> None:
        """Wait for a moment, random or within one of the next commits, and kill."""
        if dice.random() < SHARE_AT_COMMITS:
            wanted = dice.choice([1, 2, 3])
            with self.news:
                self.news.wait_for(lambda: self.num_commits >= wanted, timeout=60)
            time.sleep(dice.random() * SECONDS_OF_A_COMMIT)
        else:
            time.sleep(dice.random() * usual_seconds)
        self.process.send_signal(signal.SIGKILL)
        with self.news:
            self.lost_seconds = time.monotonic() - self._first_lost if self._first_lost else 0.0

    def wait(self) -> bytes:
        """Let it end, and hear it out; returns its stderr."""
        _, errors = self.process.communicate()
        self._listener.join()
        return errors


class _Trial:
    """One workspace, from nothing to complete."""

    usual_seconds = 8.0  # of an extraction; measured as it goes

    def __init__(
        self, photos: Path, workspace: Workspace, wanted: dict[str, dict[Digest, Array]], outcome: Outcome
    ) -> None:
        self._photos = photos
        self._workspace = workspace
        self._wanted = wanted
        self._outcome = outcome
        self._digests = list(next(iter(wanted.values())))
        self._promised: set[Digest] = set()
        self._computed: Counter[str] = Counter()

    def is_complete(self) -> bool:
        return len(self._promised) == len(self._digests)

    def round(self, dice: random.Random) -> None:
        """Start one writer or two, kill them at a moment of its own each, and look at what is left."""
        started = time.monotonic()
        paired = dice.random() < SHARE_OF_PAIRS
        writers = [_Writer(self._photos, self._workspace.root) for _ in range(2 if paired else 1)]
        killers = [
            threading.Thread(target=writer.kill, args=(random.Random(dice.random()), self.usual_seconds))
            for writer in writers
        ]
        for killer in killers:
            killer.start()
        for killer in killers:
            killer.join()
        self._account(writers, paired)
        if any(writer.process.returncode == 0 for writer in writers):
            type(self).usual_seconds = time.monotonic() - started

    def finish(self) -> None:
        """Let one writer do the rest, and check every byte of the store."""
        if not self.is_complete():
            self._account([_Writer(self._photos, self._workspace.root)], paired=False)
        if not self.is_complete():
            self._outcome.problems["a run that ended left the store incomplete"] += 1
        verification = Verification(str(self._workspace.root), Quiet())
        verification.run()
        outcome = self._outcome
        for finding in verification.findings:
            outcome.problems[f"verify: {finding.what} {finding.problem}"] += 1
        outcome.completed_stores += 1
        outcome.rows_computed += self._computed.total()
        outcome.rows_recomputed += self._computed.total() - len(self._digests)

    def _account(self, writers: list[_Writer], paired: bool) -> None:
        outcome = self._outcome
        for writer in writers:
            errors = writer.wait().decode(errors="replace")
            code = writer.process.returncode
            if code == -signal.SIGKILL:
                outcome.kills += 1
                outcome.in_pairs += paired
                outcome.in_commits += writer.in_commit
            elif code == 0:
                outcome.completed_runs += 1
            else:
                outcome.problems[f"exit code {code}: {errors[-300:]}"] += 1
            self._promised |= {bytes.fromhex(digest) for digest in writer.committed}
            self._computed.update(writer.computed)
        kept = self._look()
        for writer in writers:
            lost = {digest for digest in writer.computed if bytes.fromhex(digest) not in kept}
            outcome.most_lost_rows = max(outcome.most_lost_rows, len(lost))
            outcome.most_lost_seconds = max(outcome.most_lost_seconds, writer.lost_seconds)

    def _look(self) -> set[Digest]:
        """Open the store as the next run does; everything promised must be there, and right."""
        outcome = self._outcome
        started = time.perf_counter()
        store = FeatureWriter(Workspace.open(self._workspace.root), SPEC.space())
        kept = set(self._digests).difference(store.missing(self._digests))
        outcome.slowest_open = max(outcome.slowest_open, time.perf_counter() - started)
        outcome.problems["committed rows lost"] += len(self._promised - kept)
        for tap, rows in self._wanted.items():
            found = store.read(sorted(kept), tap)
            wanted = np.array([rows[digest] for digest in sorted(kept)]).reshape(found.shape)
            outcome.problems["rows that differ"] += int((found != wanted).any(axis=1).sum())
        outcome.problems["damaged files"] += len(list(self._workspace.quarantine.glob("*")))
        outcome.problems = +outcome.problems  # what did not happen is no problem
        self._promised |= kept
        return kept
