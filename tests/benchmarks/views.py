"""What cached augmented views buy: `python -m tests.benchmarks.views [--views 0,1,2,4,8] [--per-class N] FOLDER...`.

Every FOLDER has a train and a test folder. One row a dataset and number of views K, by the same steps as
`headstart onboard --views K`, in a workspace of the benchmark's own: each K adds to what the one before it has
stored, so minutes and megabytes grow as they would for somebody who asks for more. With --per-class N the head
learns from N pictures a class.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from flows.requests import OnboardRequest
from pipeline.fingerprint import digest
from tests import factories

COLUMNS = "{:<22} {:>5} {:>9} {:>9} {:>9} {:>13} {:>9} {:>9}"


def write_subset(folder: Path, per_class: int, subset: Path) -> Path:
    """Copy a dataset with `per_class` training pictures a class, chosen by content, and all test pictures."""
    shutil.copytree(folder / "test", subset / "test")
    for label in sorted((folder / "train").iterdir()):
        (subset / "train" / label.name).mkdir(parents=True)
        pictures = sorted(label.iterdir(), key=lambda path: digest(path.read_bytes()))
        for path in pictures[:per_class]:
            shutil.copy2(path, subset / "train" / label.name)
    return subset


def stored_bytes(workspace: Path) -> int:
    return sum(shard.stat().st_size for shard in (workspace / "spaces").rglob("*.h5"))


def measure(folder: Path, all_views: list[int], workspace: Path) -> None:
    """Print one row for every number of views."""
    minutes, bytes_before = 0.0, stored_bytes(workspace)
    for num_views in all_views:
        document = factories.onboard(OnboardRequest(str(folder), str(workspace), views=num_views))
        record = json.loads((Path(document["model"]["path"]) / "record.json").read_text())
        seconds = document["seconds"]
        minutes += seconds.get("extract", 0.0) / 60
        print(
            COLUMNS.format(
                document["dataset"],
                num_views,
                document["size"]["num_train"],
                f"{document['metrics']['accuracy']:.3f}",
                f"{record['head']['loo_error']:.3f}",
                f"{minutes:.2f}",
                f"{seconds['train']:.1f}",
                f"{(stored_bytes(workspace) - bytes_before) / 2**20:.1f}",
            ),
            document["reasons"][-1] if num_views else "",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what cached augmented views buy.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--views", default="0,1,2,4,8")
    parser.add_argument("--per-class", type=int)
    arguments = parser.parse_args()
    all_views = sorted(int(number) for number in arguments.views.split(","))
    print(COLUMNS.format("dataset", "views", "train", "accuracy", "loo error", "extract (min)", "head (s)", "MB"))
    with tempfile.TemporaryDirectory() as scratch:
        for folder in arguments.folders:
            if arguments.per_class:
                folder = write_subset(folder, arguments.per_class, Path(scratch, folder.name))
            measure(folder, all_views, Path(scratch, "workspace"))


if __name__ == "__main__":
    main()
