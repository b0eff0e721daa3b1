"""How good the rule is: every strategy on datasets x sizes x seeds, and the regret of every policy.

`python -m tests.benchmarks.study run OUT FOLDER...` audits every cell (resumable: what OUT has is not run again);
`python -m tests.benchmarks.study table OUT` prints the table, nothing is run. A FOLDER has train and test folders;
`fashion-mnist=PATH` takes the four files of Debian's dataset-fashion-mnist instead.

A cell is a dataset cut to N training pictures in proportion to the classes, chosen by content and seed, and at most
NUM_TEST test pictures; every strategy sees the same ones, at the same size (`--size`), with the same budget.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from PIL import Image as Pillow

from flows.requests import OnboardRequest
from pipeline.backbones.table import TOP
from pipeline.decision.audited import Regret
from pipeline.decision.nouns import Plan, Similarity, Size
from pipeline.decision.plan import FINETUNING, LARGE_FROM_DIFFERENT, judge_size, plan_case
from pipeline.decision.reconsider import reconsider
from pipeline.decision.refit import PRICE
from pipeline.decision.regret import delivered_strategy, measure_regret, unpack_correct
from pipeline.decision.similarity import judge_distance
from pipeline.types import Head, Tap
from tests import factories

NUM_TEST = 600


# ── cells ────────────────────────────────────────────────────────────────────────────────────────


def place(path: Path, seed: int) -> bytes:
    """Order pictures by content and seed."""
    return hashlib.sha256(f"{seed}:".encode() + path.read_bytes()).digest()


def choose(folder: Path, num: int | None, seed: int) -> list[Path]:
    """Choose pictures in proportion to their classes, at least one of each."""
    by_class = {label: sorted(label.iterdir()) for label in sorted(folder.iterdir()) if label.is_dir()}
    total = sum(len(paths) for paths in by_class.values())
    share = 1.0 if num is None else min(1.0, num / total)
    chosen = []
    for paths in by_class.values():
        wanted = max(1, round(share * len(paths)))
        chosen += paths if wanted >= len(paths) else sorted(paths, key=lambda path: place(path, seed))[:wanted]
    return chosen


def write_cell(source: Path, num: int | None, seed: int, folder: Path) -> Path:
    """Link a dataset cut to `num` training pictures."""
    for split, count, salt in (("train", num, seed), ("test", NUM_TEST, 0)):
        for path in choose(source / split, count, salt):
            target = folder / split / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    return folder


def write_fashion_mnist(source: Path, folder: Path, num_train: int = 6000, num_test: int = 1000) -> Path:
    """Write Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747) as PNG files, the first so many of each split."""
    for split, prefix, num in (("train", "train", num_train), ("test", "t10k", num_test)):
        with gzip.open(source / f"{prefix}-images-idx3-ubyte.gz") as images:
            _, _, height, width = struct.unpack(">4I", images.read(16))
            pixels = images.read(num * height * width)
        with gzip.open(source / f"{prefix}-labels-idx1-ubyte.gz") as file:
            labels = file.read()[8:]
        for number in range(num):
            target = folder / split / str(labels[number]) / f"{number:05d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            one = pixels[number * height * width : (number + 1) * height * width]
            Pillow.frombytes("L", (width, height), one).save(target)
    return folder


def run_cell(source: Path, num: int | None, seed: int, size: int, epochs: int, out: Path, workspace: Path) -> None:
    """Onboard and audit one cell by the same steps as the command line; write its document."""
    from flows.documents import to_document
    from flows.finetuning.audit import audit
    from flows.requests import AuditRequest

    name = f"{source.name}-{num or 'all'}-{seed}".lower()
    with tempfile.TemporaryDirectory(dir=source.parent, prefix=".cell-") as scratch:
        folder = write_cell(source, num, seed, Path(scratch, name))
        onboarded = factories.onboard(OnboardRequest(str(folder), str(workspace), name, size=size))
        document = to_document(audit(AuditRequest(name, str(workspace), epochs)))
    cell = {"dataset": source.name, "wanted": num, "seed": seed, "onboarded": onboarded, "audit": document}
    part = out / f".{name}.part"
    part.write_text(json.dumps(cell))
    part.replace(out / f"{name}.json")
    rows = "  ".join(f"{row['strategy']} {row['accuracy']:.3f}" for row in document["strategies"])
    print(f"{name:<34} case {document['case']}  {rows}  gate {document['gate']['passed']}", flush=True)


def run(arguments: argparse.Namespace) -> None:
    """Run every cell that OUT does not have, each dataset's in a process of its own."""
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    workspace = Path(arguments.workspace or out / "workspace")
    for text in arguments.folders:
        kind, equals, path = text.partition("=")
        source = Path(path if equals else text).resolve()
        if equals and kind == "fashion-mnist":
            source = out / "fashion_mnist"
            if not source.is_dir():
                write_fashion_mnist(Path(path), source)
        for num in [None if word == "all" else int(word) for word in arguments.sizes.split(",")]:
            for seed in range(arguments.seeds):
                name = f"{source.name}-{num or 'all'}-{seed}".lower()
                if (num is None and seed) or (out / f"{name}.json").is_file():
                    continue
                words = ["cell", str(out), str(source), str(num or "all"), str(seed), str(workspace)]
                options = ["--size", str(arguments.size), "--epochs", str(arguments.epochs)]
                subprocess.run([sys.executable, "-m", "tests.benchmarks.study", *words, *options], check=False)


def cell(arguments: argparse.Namespace) -> None:
    num = None if arguments.num == "all" else int(arguments.num)
    out, source = Path(arguments.out), Path(arguments.source)
    run_cell(source, num, arguments.seed, arguments.size, arguments.epochs, out, Path(arguments.workspace))


# ── the table ────────────────────────────────────────────────────────────────────────────────────

REMOVED_CANDIDATES = (0.0, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)  # of the head's errors on small data, by fine-tuning
GATED = "fine-tune, gated"  # costs fine-tuning, delivers the better one on validation pictures


@dataclass(frozen=True)
class Outcome:
    """What a policy came to in one cell."""

    regret: Regret
    share: float  # of the multiply-adds of fine-tuning always
    spent: float  # multiply-adds


def outcome(audit: dict[str, Any], policy: str) -> Outcome:
    """Score a policy's choice in a cell: a strategy, or GATED."""
    correct = {row["strategy"]: unpack_correct(row["correct"], audit["num_test"]) for row in audit["strategies"]}
    cost = {row["strategy"]: row["multiply_adds"] for row in audit["strategies"]}
    features = cost["head-on-evidence"]
    if policy == GATED:
        regret = measure_regret(correct, delivered_strategy("fine-tune", audit["gate"]["passed"]))
        spent = features + cost["fine-tune"]
    else:
        regret, spent = measure_regret(correct, policy), cost[policy]
    return Outcome(regret, spent / cost["fine-tune"], spent)


def plan_of(cell: dict[str, Any]) -> Plan:
    """Decide anew from what the cell measured, so that a study also judges a rule that came after it."""
    known, signals = cell["onboarded"], cell["audit"]["signals"]
    fields = ("distance", "early", "middle", "late", "num_images")
    measured = {name: known["similarity"][name] for name in fields}
    limits = Similarity(**measured, verdict="similar").limits
    similarity = Similarity(**measured, verdict=judge_distance(signals["distance"], limits))
    verdict = judge_size(signals["num_train"], signals["smallest_class"], similarity.verdict)
    size = Size(signals["num_train"], signals["num_classes"], signals["smallest_class"], verdict)
    plan = plan_case(similarity, size, signals["backbone"], (Tap(TOP, TOP, "gap", 1, 0),))
    error = next(row["loo_error"] for row in cell["audit"]["strategies"] if row["strategy"] == "head-on-evidence")
    return reconsider(plan, Head((), 1.0, error, 0.0))


def by_the_rule(cell: dict[str, Any]) -> str:
    """What headstart does: the case, and what evidence changes about it; its heads see all taps."""
    return GATED if plan_of(cell).strategy in FINETUNING else "head-on-evidence"


def held_out_choices(cells: list[dict[str, Any]]) -> list[str]:
    """Decide every cell by the rule with its free constant refitted on the other datasets' cells alone."""

    def choices(removed: float) -> list[str]:
        with mock.patch("pipeline.decision.reconsider.REMOVED_OF_SMALL", removed):
            return [by_the_rule(cell) for cell in cells]

    tried = [choices(removed) for removed in REMOVED_CANDIDATES]
    found = [[outcome(cell["audit"], choice) for cell, choice in zip(cells, row, strict=True)] for row in tried]
    costs = [[one.regret.points + PRICE * one.share for one in row] for row in found]
    datasets = [cell["dataset"] for cell in cells]
    best = {}
    for name in set(datasets):
        others = [[cost for cost, of in zip(row, datasets, strict=True) if of != name] for row in costs]
        best[name] = min(range(len(tried)), key=lambda place: sum(others[place]))
    return [tried[best[name]][place] for place, name in enumerate(datasets)]


def by_the_textbook(cell: dict[str, Any]) -> str:
    """The table of the four cases, its thresholds ours, and nothing else."""
    textbook = plan_of(cell).textbook
    return GATED if textbook in FINETUNING else textbook


def by_size(cell: dict[str, Any]) -> str:
    return GATED if cell["audit"]["signals"]["num_train"] >= LARGE_FROM_DIFFERENT else "head-on-evidence"


def by_similarity(cell: dict[str, Any]) -> str:
    return "head-on-top" if plan_of(cell).similarity.verdict == "similar" else GATED


POLICIES: dict[str, Callable[[dict[str, Any]], str]] = {
    "headstart's rule": by_the_rule,
    "textbook, fixed thresholds": by_the_textbook,
    "size only": by_size,
    "similarity only": by_similarity,
    "always the top tap": lambda cell: "head-on-top",
    "always the evidence head": lambda cell: "head-on-evidence",
    "always fine-tune": lambda cell: "fine-tune",
    "always fine-tune, gated": lambda cell: GATED,
    "always from scratch": lambda cell: "scratch",
}


def read_cells(out: Path) -> list[dict[str, Any]]:
    """Read every cell of a study, smallest first within its dataset."""
    cells = [json.loads(path.read_text()) for path in out.glob("*.json")]
    return sorted(cells, key=lambda cell: (cell["dataset"], cell["audit"]["signals"]["num_train"], cell["seed"]))


def table(arguments: argparse.Namespace) -> None:
    """Print the accuracy of every strategy in every cell, then the regret of every policy, as Markdown."""
    cells = read_cells(Path(arguments.out))
    names = [row["strategy"] for row in cells[0]["audit"]["strategies"]]
    print("| dataset | pictures | D_BN |", " | ".join(names), "| gate |")
    print("|---|---|---|", "---|" * (len(names) + 1), sep="")
    for cell in cells:
        audit, signals = cell["audit"], cell["audit"]["signals"]
        rates = " | ".join(f"{row['accuracy']:.3f}" for row in audit["strategies"])
        gate = "passed" if audit["gate"]["passed"] else "held"
        print(f"| {cell['dataset']} | {signals['num_train']:,} | {signals['distance']:.3f} | {rates} | {gate} |")
    print()
    print("| policy | mean regret | worst | cells within 1 point | mean share of fine-tuning's compute | of the sum |")
    print("|---|---|---|---|---|---|")
    total = sum(outcome(cell["audit"], "fine-tune").spent for cell in cells)
    choices = {name: [policy(cell) for cell in cells] for name, policy in POLICIES.items()}
    choices["headstart's rule, refitted without the dataset"] = held_out_choices(cells)
    for name, chosen in choices.items():
        found = [outcome(cell["audit"], choice) for cell, choice in zip(cells, chosen, strict=True)]
        points = [one.regret.points for one in found]
        within = sum(point <= 1 for point in points) / len(points)
        share = sum(one.share for one in found) / len(found)
        print(
            f"| {name} | {sum(points) / len(points):.2f} | {max(points):.1f} | {within:.0%} | {share:.0%} | "
            f"{sum(one.spent for one in found) / total:.0%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="How good the rule is.")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("out")
    running.add_argument("folders", nargs="+", metavar="FOLDER")
    running.add_argument("--sizes", default="all,300,100", help="training pictures of the cells")
    running.add_argument("--seeds", type=int, default=1)
    running.add_argument("--workspace")
    one = commands.add_parser("cell")
    for word in ("out", "source", "num"):
        one.add_argument(word)
    one.add_argument("seed", type=int)
    one.add_argument("workspace")
    for command in (running, one):
        command.add_argument("--size", type=int, default=96)
        command.add_argument("--epochs", type=int, default=6)
    showing = commands.add_parser("table")
    showing.add_argument("out")
    arguments = parser.parse_args()
    {"run": run, "cell": cell, "table": table}[arguments.command](arguments)


if __name__ == "__main__":
    main()
