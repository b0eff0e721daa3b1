"""What the service costs: the same onboarding through a server and a worker, and by the command line.

And what a run leaves in the server's database, which is SQLite here.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from datetime import datetime
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.photos import write_photos
from tests.benchmarks.table import row
from tests.soak.server import FINAL, Server, wait_until

NUM_IMAGES = 300
NUM_RUNS = 3
PARTS = {
    "waiting": "until a worker has taken it, polling every 2 s",
    "process": "a process that loads Python and Prefect, and the flow's module",
    "working": "the onboarding itself, with artifacts and logs / the command line's",
    "ending": "until the server knows",
}


def measure(scratch: Path) -> list[dict[str, Any]]:
    """Compare whole onboardings, each in a workspace of its own, one after the other; says where the seconds go."""
    photos = write_photos(scratch / "photos-service", NUM_IMAGES)
    numbers = count()
    by_command: list[float] = []
    by_worker: list[dict[str, float]] = []
    (scratch / "service").mkdir()
    with Server(scratch / "service") as server:
        before = _kilobytes(scratch / "service")
        for _ in range(NUM_RUNS):
            began = time.monotonic()
            server.command("onboard", str(photos), "--workspace", str(scratch / f"command-{next(numbers)}"))
            by_command.append(time.monotonic() - began)
            by_worker.append(_through_worker(server, photos, scratch / f"worker-{next(numbers)}"))
        after = _kilobytes(scratch / "service")
    whole = median(run["whole"] for run in by_worker)
    rows = [
        row(f"onboarding of {NUM_IMAGES} photos by the command line, seconds", median(by_command), ""),
        row("the same through server and worker, seconds", whole, ""),
        row("what the service adds, seconds", whole - median(by_command), "<= 20"),
    ]
    for part, meaning in PARTS.items():
        rows.append(row(f"  {part}: {meaning}", median(run[part] for run in by_worker), ""))
    meanings = {"events": "events, kept for a week", "rest": "the run with its logs and artifacts, kept for a year"}
    for part, meaning in meanings.items():
        rows.append(row(f"database, KB a run: {meaning}", (after[part] - before[part]) / NUM_RUNS, ""))
    return rows


def _through_worker(server: Server, photos: Path, workspace: Path) -> dict[str, float]:
    """Submit an onboarding as the UI does; returns seconds by part."""
    began = time.time()
    run_id = server.submit("onboard", {"folder": str(photos), "workspace": str(workspace)})
    wait_until(lambda: server.run(run_id)["state"]["type"] in FINAL, 600, "the run did not end")
    run = server.run(run_id)
    assert run["state"]["type"] == "COMPLETED", run["state"]
    states = server.ask("GET", f"/flow_run_states/?flow_run_id={run_id}")
    times = {state["name"]: datetime.fromisoformat(state["timestamp"]).timestamp() for state in states}
    taken, running, ended = (times[name] for name in ("Pending", "Running", "Completed"))
    return {
        "whole": ended - began,
        "waiting": taken - began,
        "process": running - taken,
        "working": ended - running,
        "ending": time.time() - ended,
    }


def _kilobytes(folder: Path) -> dict[str, float]:
    """Measure what the server's database holds, indexes included."""
    with closing(sqlite3.connect(f"file:{folder / 'prefect' / 'prefect.db'}?mode=ro", uri=True)) as database:
        pages = database.execute(
            "SELECT tbl_name LIKE '%event%', SUM(pgsize) FROM dbstat JOIN sqlite_master USING (name) GROUP BY 1"
        ).fetchall()
    found = {"rest": 0.0, "events": 0.0}
    for is_event, num_bytes in pages:
        found["events" if is_event else "rest"] = num_bytes / 1e3
    return found
