"""Measure headstart against the practice it replaces and against the limits of the machine: `make bench`.

Every row is a ratio of medians from runs side by side, interleaved in one process, because absolute seconds on a
shared machine mean little; rows that are seconds or megabytes say so. The table goes to stdout and, as JSON, to
bench.json. Name parts to measure only those: `python -m tests.benchmarks extraction reading`; `scale` takes ten more
minutes and runs only when it is named.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks import catalog, extraction, finetuning, heads, onboarding, reading, service, training

PARTS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "extraction": extraction.measure,
    "training": training.measure,
    "heads": heads.measure,
    "finetuning": finetuning.measure,
    "onboarding": onboarding.measure,
    "reading": reading.measure,
    "catalog": catalog.measure,
    "service": service.measure,
    "scale": onboarding.measure_at_scale,
}
ONLY_WHEN_NAMED = {"scale"}


def main(names: list[str]) -> None:
    """Measure the named parts, or all that are quick."""
    if unknown := set(names) - PARTS.keys():
        sys.exit(f"unknown parts: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    chosen = names or [name for name in PARTS if name not in ONLY_WHEN_NAMED]
    print(f"{'':<86} {'':>10}  bar")
    with tempfile.TemporaryDirectory(prefix="headstart-bench-") as folder:
        rows = [{"part": name, **row} for name in chosen for row in PARTS[name](Path(folder))]
    document = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "rows": rows}
    Path("bench.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
