"""Two writers and two readers on one store for minutes: every read is right, and nobody is locked out."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from itertools import islice
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from flows.progress import Quiet
from storage.features.spaces import list_spaces
from storage.features.writer import FeatureWriter
from storage.maintenance.verification import Verification
from storage.workspace import Workspace
from tests.soak.rows import block_of, digest_of, spaces, values_of

STEP = 64  # rows of a commit
NUM_ROWS = 20_000  # of a space; when it is full, the next one begins
SHARE_REPEATED = 0.2  # of commits of a writer that does not ask what is there

Counts = Counter[str]


def run(scratch: Path, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Let them work; returns the summary."""
    root = scratch / "workspace"
    Workspace.open(root)
    context = multiprocessing.get_context("spawn")
    answers: Queue[Counts] = context.Queue()
    processes = [
        context.Process(target=_work, args=(role, str(root), seconds, seed + number, answers))
        for number, role in enumerate(("write", "write", "read", "read"))
    ]
    for process in processes:
        process.start()
    totals: Counts = Counter()
    for _ in processes:
        totals += answers.get(timeout=seconds + 300)
    for process in processes:
        process.join()
    left = _count_damage(root)
    problems = {name: number for name, number in totals.items() if name.startswith(("error", "wrong"))} | left
    return {"ok": not problems, "seconds": seconds, "problems": problems, "counts": dict(sorted(totals.items()))}


def _work(role: str, root: str, seconds: float, seed: int, answers: Queue[Counts]) -> None:
    counts: Counts = Counter()
    deadline = time.time() + seconds
    dice = random.Random(seed)
    try:
        (_write if role == "write" else _read)(Workspace.open(root), deadline, dice, counts)
    except Exception as error:  # noqa: BLE001 - that nothing is ever raised is what is tried
        counts[f"error of one that {role}s: {error!r}"] += 1
    answers.put(counts)


def _write(workspace: Workspace, deadline: float, dice: random.Random, counts: Counts) -> None:
    """Fill one space after the other, from either end, so that the writers meet in the middle."""
    upwards = dice.random() < 0.5
    for space in spaces():
        store = FeatureWriter(workspace, space)
        starts = range(0, NUM_ROWS, STEP)
        for start in starts if upwards else reversed(starts):
            if time.time() > deadline:
                return
            numbers = range(start, start + STEP)
            if dice.random() > SHARE_REPEATED:
                missing = set(store.missing([digest_of(number) for number in numbers]))
                numbers = [number for number in numbers if digest_of(number) in missing]
            if not numbers:
                continue
            store.append(block_of(numbers))
            store.commit()
            counts["commits"] += 1
            counts["rows written"] += len(numbers)
        upwards = not upwards


def _read(workspace: Workspace, deadline: float, dice: random.Random, counts: Counts) -> None:
    """Look up and read random rows of the newest spaces, through stores that stay open and through new ones."""
    stores: dict[str, FeatureWriter] = {}
    while time.time() < deadline:
        known = {space.backbone for space in list_spaces(workspace)}
        newest = [space for space in islice(spaces(), len(known)) if space.backbone in known][-2:]
        if not newest:
            time.sleep(0.01)
            continue
        space = dice.choice(newest)
        if space.id not in stores or dice.random() < 0.1:
            stores[space.id] = FeatureWriter(workspace, space)
        store = stores[space.id]
        numbers = dice.sample(range(NUM_ROWS), dice.choice([1, 256, 2000]))
        missing = set(store.missing([digest_of(number) for number in numbers]))
        numbers = [number for number in numbers if digest_of(number) not in missing]
        tap = dice.choice(space.taps)
        found = store.read([digest_of(number) for number in numbers], tap.name)
        counts["reads"] += 1
        counts["rows read"] += len(numbers)
        counts["wrong rows"] += int((found != values_of(numbers, tap)).any(axis=1).sum())


def _count_damage(root: Path) -> Counts:
    """Check every byte of what is left."""
    verification = Verification(str(root), Quiet())
    verification.run()
    return Counter(f"found by verify: {finding.problem}" for finding in verification.findings)
