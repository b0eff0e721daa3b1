"""Long trials of the store, started by a person: `make soak`, or one of them by name.

    python -m tests.soak kills --runs 500
    python -m tests.soak flips --runs 1000
    python -m tests.soak writers --minutes 10

Each prints its summary as JSON on stdout; the exit code is 1 where something was lost, wrong or unclear.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Run the named trials, by default all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", choices=["kills", "flips", "writers", []], metavar="NAME")
    parser.add_argument("--runs", type=int, help="kills (default 500) or flips (default 1000)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of writers")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.getLogger("storage").setLevel(logging.ERROR)  # damage is expected here
    ok = True
    for name in arguments.names or ["flips", "writers", "kills"]:
        with tempfile.TemporaryDirectory(prefix=f"headstart-{name}-") as folder:
            summary = _run(name, Path(folder), arguments)
        print(json.dumps({"trial": name, **summary}, indent=1), flush=True)
        ok &= summary["ok"]
    sys.exit(not ok)


def _run(name: str, scratch: Path, arguments: argparse.Namespace) -> dict[str, object]:
    # imported here: the processes that they start import this package too
    if name == "flips":
        from tests.soak import flips

        return flips.run(scratch, arguments.runs or 1000, arguments.seed)
    if name == "writers":
        from tests.soak import writers

        return writers.run(scratch, arguments.minutes * 60, arguments.seed)
    from tests.soak import kills

    return kills.run(scratch, arguments.runs or 500, arguments.seed)


if __name__ == "__main__":
    main()
