"""One flipped bit at a time: is it read as a feature, does it end the process, is it found, what does it cost?

Every flip is examined in a process of its own kind, which is replaced where it crashes or hangs: HDF5 and SQLite parse
the damaged bytes.
"""

from __future__ import annotations

import json
import logging
import os
import random
import select
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from flows.progress import Quiet
from pipeline.errors import ConflictError, DamagedError
from storage.features.writer import FeatureWriter
from storage.maintenance.verification import LEFT, Verification
from storage.workspace import Workspace
from tests.soak.rows import SPACE, block_of, digest_of, values_of

NUM_SHARDS = 8
SHARD_ROWS = 48
NUMBERS = range(NUM_SHARDS * SHARD_ROWS)
CANARY = [1_000_000]
REJECTS = tuple((digest_of(-number), f"no picture {number}") for number in range(1, 33))
SECONDS_TO_ANSWER = 120.0  # more than any answer takes on a busy machine: a process that hangs never answers
SHARES = {"shard": 0.55, "catalog": 0.35, "space": 0.05, "canary": 0.05}


def run(scratch: Path, num_flips: int, seed: int = 0) -> dict[str, Any]:
    """Flip bits one after the other, each in a whole store; returns the summary."""
    pristine = write_store(scratch / "pristine")
    counts: Counter[str] = Counter()
    examples: list[dict[str, Any]] = []
    examiner = _Examiner(pristine, scratch)
    for flip in _choose(pristine, num_flips, random.Random(seed)):
        answer = examiner.examine(flip)
        counts.update(f"{flip['kind']}: {outcome}" for outcome in ["flips", *answer["outcomes"]])
        if set(answer["outcomes"]) & FAILURES:
            examples.append({**flip, **answer})
    examiner.close()
    failed = sum(number for name, number in counts.items() if name.partition(": ")[2] in FAILURES)
    return {"ok": not failed, "flips": num_flips, "counts": dict(sorted(counts.items())), "failures": examples}


def write_store(root: Path) -> Path:
    """Write a small store of everything that a store can hold."""
    store = FeatureWriter(Workspace.open(root), SPACE)
    store.write_canary(block_of(CANARY))
    for start in NUMBERS[::SHARD_ROWS]:
        store.append(block_of(range(start, start + SHARD_ROWS), REJECTS if start == 0 else ()))
        store.commit()
    return root


def _choose(root: Path, num_flips: int, dice: random.Random) -> Iterator[dict[str, Any]]:
    workspace = Workspace.open(root)
    files = {
        "shard": sorted(path for _, path in workspace.shards(SPACE.id)),
        "catalog": [workspace.catalog],
        "space": [workspace.space_file(SPACE.id)],
        "canary": [workspace.canary(SPACE.id)],
    }
    for _ in range(num_flips):
        [kind] = dice.choices(list(SHARES), list(SHARES.values()))
        path = dice.choice(files[kind])
        place = dice.randrange(path.stat().st_size)
        yield {"kind": kind, "path": str(path.relative_to(root)), "byte": place, "bit": dice.randrange(8)}


class _Examiner:
    """A process that examines flips; another one takes its place where it dies or does not answer."""

    def __init__(self, pristine: Path, scratch: Path) -> None:
        self._arguments = [str(pristine), str(scratch)]
        self._process: subprocess.Popen[str] | None = None

    def examine(self, flip: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            command = [sys.executable, "-m", "tests.soak.flips", *self._arguments]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(flip) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], SECONDS_TO_ANSWER)[0]:
            self.close()
            return {"outcomes": ["hung"]}
        if line := self._process.stdout.readline():
            return dict(json.loads(line))
        code = self._process.wait()
        self.close()
        return {"outcomes": ["crashed"], "code": code}

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


# ── in the other process ─────────────────────────────────────────────────────────────────────────

AT_MOST_RECOMPUTED = {
    "shard": SHARD_ROWS,
    "catalog": 1,  # the row whose digest it has wrong
    "space": 0,
    "canary": 0,
}
FAILURES = {"hung", "crashed", "raised", "read wrong", "not found by verify", "too much recomputed", "not usable again"}


def examine(pristine: Path, scratch: Path, flip: dict[str, Any]) -> dict[str, Any]:
    """Use a store that was damaged; and verify another one, then use that."""
    try:
        root = _flipped(pristine, scratch / "used", flip)
        changed = flip["kind"] != "catalog" or _dump(root) != _dump(pristine)
        outcomes = [f"on use: {_use(root, flip)}"]
        root = _flipped(pristine, scratch / "verified", flip)
        verification = Verification(str(root), Quiet())
        verification.run()
        if verification.findings:
            outcomes.append("found by verify")
        else:
            outcomes.append("not found by verify" if changed else "changes nothing that can be read")
        after = _use(root, flip)
        if after == "refused" and any(finding.done == LEFT for finding in verification.findings):
            outcomes.append("left to a person")  # such as a version that became another number
        elif after not in ("right", "right, rows computed again"):
            outcomes.append("not usable again")
        return {"outcomes": outcomes, "after": after}
    except _Failure as failure:
        return {"outcomes": [str(failure)]}
    except Exception as error:  # noqa: BLE001 - that nothing else is ever raised is what is examined
        return {"outcomes": ["raised"], "error": repr(error)}


class _Failure(Exception):
    pass


def _use(root: Path, flip: dict[str, Any]) -> str:
    """Read and complete a store as a run does; tell how that went."""
    damaged = False
    for _ in range(2):
        try:
            store = FeatureWriter(Workspace.open(root), SPACE)
            missing = set(store.missing([digest_of(number) for number in NUMBERS]))
            kept = [number for number in NUMBERS if digest_of(number) not in missing]
            _check_rows(store, kept)
            _check_canary(store)
            rejects = store.rejects([digest for digest, _ in REJECTS])
        except DamagedError:
            damaged = True
            continue
        except ConflictError:
            return "refused"
        if len(missing) > AT_MOST_RECOMPUTED[flip["kind"]]:
            raise _Failure("too much recomputed")
        if not rejects.items() <= dict(REJECTS).items():
            raise _Failure("read wrong")
        with store:
            store.append(block_of(sorted(set(NUMBERS).difference(kept))))
        _check_rows(store, list(NUMBERS))
        return "right, rows computed again" if missing else "right after an error" if damaged else "right"
    return "refused"


def _check_rows(store: FeatureWriter, numbers: list[int]) -> None:
    for tap in SPACE.taps:
        if not np.array_equal(store.read(list(map(digest_of, numbers)), tap.name), values_of(numbers, tap)):
            raise _Failure("read wrong")


def _check_canary(store: FeatureWriter) -> None:
    canary = store.read_canary()
    if canary and not all(np.array_equal(canary.taps[tap.name], values_of(CANARY, tap)) for tap in SPACE.taps):
        raise _Failure("read wrong")


def _flipped(pristine: Path, root: Path, flip: dict[str, Any]) -> Path:
    """Copy a store with one bit changed; files that are never written again are linked."""
    shutil.rmtree(root, ignore_errors=True)
    damaged = pristine / flip["path"]

    def copy(source: str, target: str) -> str:
        if source.endswith(".h5") and Path(source) != damaged:
            os.link(source, target)
        else:
            shutil.copyfile(source, target)
        return target

    shutil.copytree(pristine, root, copy_function=copy)
    data = bytearray(damaged.read_bytes())
    data[flip["byte"]] ^= 1 << flip["bit"]
    (root / flip["path"]).write_bytes(data)
    return root


def _dump(root: Path) -> Any:
    """Everything that can be read from a catalog, or None where it is not sound."""
    try:
        with closing(sqlite3.connect(f"{(root / 'catalog.db').as_uri()}?mode=ro", uri=True)) as connection:
            if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                return None
            return [*connection.iterdump(), *connection.execute("PRAGMA user_version")]
    except (sqlite3.Error, UnicodeDecodeError):
        return None


def _serve(pristine: Path, scratch: Path) -> None:
    logging.disable()
    for line in sys.stdin:
        print(json.dumps(examine(pristine, scratch, json.loads(line))), flush=True)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]))
