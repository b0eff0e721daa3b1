"""Whole commands: the second run against the first; at scale, what a warm run costs and how memory grows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow
from sklearn.datasets import load_sample_images

from tests.benchmarks.photos import write_photos
from tests.benchmarks.table import compare, interleaved, row

NUM_IMAGES = 1000
MANY, FEWER = 60_000, 6_000


def measure(scratch: Path) -> list[dict[str, Any]]:
    photos = write_photos(scratch / "photos1000", NUM_IMAGES)
    numbers = count()
    warm = scratch / "onboarding-warm"
    run_command("onboard", photos, warm)
    seconds = interleaved(
        {
            "first": lambda: run_command("onboard", photos, scratch / f"onboarding-{next(numbers)}"),
            "second": lambda: run_command("onboard", photos, warm),
        }
    )
    return [compare(f"{NUM_IMAGES} photos: first onboard / second onboard", "first", "second", seconds, "")]


def measure_at_scale(scratch: Path) -> list[dict[str, Any]]:
    """Ten minutes: 72,000 small pictures are extracted."""
    folders = {number: write_thumbnails(scratch / f"thumbnails{number}", number) for number in (FEWER, MANY)}
    ready = scratch / "scale-ready"
    run_command("extract", folders[FEWER], ready)
    peaks = {}
    for num_images, folder in folders.items():
        # the same network and the same tuning: each setting has a memory of its own
        for part in ("engines", "tuning"):
            shutil.copytree(ready / part, scratch / f"scale-{num_images}" / part)
        _, peaks[num_images] = run_command("extract", folder, scratch / f"scale-{num_images}")
    workspace, folder = scratch / f"scale-{MANY}", scratch / f"thumbnails{MANY}"
    run_command("onboard", folder, workspace)
    started = time.perf_counter()
    _, peak = run_command("onboard", folder, workspace)
    warm = time.perf_counter() - started
    shutil.rmtree(workspace)
    return [
        row(
            f"peak memory of extracting {MANY:,} pictures / {FEWER:,}", peaks[MANY] / peaks[FEWER], "<= 1.10", mb=peaks
        ),
        row(f"seconds of onboarding {MANY:,} unchanged pictures", warm, "< 15", peak_mb=peak),
    ]


def run_command(command: str, folder: Path, workspace: Path) -> tuple[dict[str, Any], float]:
    """Run a command in a process of its own; returns its answer and its peak resident memory in MB."""
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3, file=sys.stderr)\n"
    )
    arguments = [sys.executable, "-m", "flows.cli.app", command, str(folder), "--json", "--workspace", str(workspace)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout), float(done.stderr.split()[-1])


def write_thumbnails(folder: Path, num_images: int) -> Path:
    """Write distinct 32 x 32 PNG crops in two classes."""
    rng = np.random.default_rng(0)
    for label, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / label).mkdir(parents=True)
        for number in range(num_images // 2):
            top, left = (int(rng.integers(0, size - 32)) for size in photo.shape[:2])
            crop = photo[top : top + 32, left : left + 32].copy()
            crop[0, 0] = number % 256, number // 256, 0  # distinct, whatever the crop
            Pillow.fromarray(crop).save(folder / label / f"{number:05d}.png", compress_level=1)
    return folder
