"""Long trials of the store and of jobs, started by a person: `make soak`, or some of them by name.

    python -m tests.soak kills --runs 500
    python -m tests.soak flips --runs 1000
    python -m tests.soak writers --minutes 10
    python -m tests.soak finetuning --runs 20
    python -m tests.soak predict-batch --runs 20
    python -m tests.soak service --runs 20
    python -m tests.soak restarts --runs 3
    python -m tests.soak many --runs 50

Each prints its summary as JSON on stdout; the exit code is 1 where something was lost, wrong or unclear.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path

from tests.soak import finetuning, flips, kills, predict_batch, service, writers

TRIALS = {
    "flips": lambda folder, options: flips.run(folder, options.runs or 1000, options.seed),
    "writers": lambda folder, options: writers.run(folder, options.minutes * 60, options.seed),
    "kills": lambda folder, options: kills.run(folder, options.runs or 500, options.seed),
    "finetuning": lambda folder, options: finetuning.run(folder, options.runs or 20, options.seed),
    "predict-batch": lambda folder, options: predict_batch.run(folder, options.runs or 20, options.seed),
    "service": lambda folder, options: service.run_kills(folder, options.runs or 20, options.seed),
    "restarts": lambda folder, options: service.run_restarts(folder, options.runs or 3, options.seed),
    "many": lambda folder, options: service.run_many(folder, options.runs or 50, options.seed),
}


def main() -> None:
    """Run the named trials, by default all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Long trials of the store and of jobs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(TRIALS)}; by default all")
    parser.add_argument("--runs", type=int, help="flips (default 1000), kills (500), or kills of fine-tuning (20)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of writers (default 10)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.names) - TRIALS.keys():
        parser.error(f"unknown trials: {', '.join(sorted(unknown))}; there are {', '.join(TRIALS)}")
    logging.disable()  # damage is expected here
    ok = True
    for name in options.names or TRIALS:
        with tempfile.TemporaryDirectory(prefix=f"headstart-{name}-") as folder:
            summary = TRIALS[name](Path(folder), options)
        print(json.dumps({"trial": name, **summary}, indent=1), flush=True)
        ok &= summary["ok"]
    sys.exit(not ok)


if __name__ == "__main__":
    main()
