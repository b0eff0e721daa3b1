"""How results look on a terminal: tables and a few sentences on stdout, progress on stderr."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.documents import to_document
from flows.progress import terminal_progress
from flows.settings import workspace_option
from pipeline.decision.quote import describe_quote
from pipeline.jsonable import to_json
from pipeline.types import LabelMetrics, Metrics, Prediction, Rejected
from storage.datasets.table import SEPARATOR

if TYPE_CHECKING:
    from flows.features.extraction import Extracted
    from flows.maintenance.gc import GarbageRow, GcResult
    from flows.maintenance.listing import BackboneLayers
    from flows.maintenance.verify import VerifyResult
    from flows.onboarding.results import ExtractResult, OnboardResult, PlanResult
    from pipeline.decision.nouns import Plan

WIDTH_OF_FILES = 240  # characters
NUM_NAMED = 10  # rejected files named on the terminal; the report has more


progress = terminal_progress


def json_object(result: object) -> None:
    """Print a result, a frozen value, as one JSON object."""
    print(json.dumps(to_document(result)))


def planned(result: PlanResult) -> None:
    """Print a plan: the case, and why."""
    _say_plan(result.dataset, result.plan, result.plan.reasons)
    _say_problems(result.rejected, result.notes)


def onboarded(result: OnboardResult) -> None:
    """Print what onboarding did and how good the model is."""
    model, record = result.model, result.model.record
    _say_plan(result.dataset, result.plan, result.reasons)
    _say_problems(result.extracted.rejected, record.data.notes)
    say()
    _say_features(result.extracted)
    _say_metrics(record.metrics)
    _say_seconds(result.seconds)
    say(f"model {model.name}@{model.version} in {model.path}", style="bold")
    serving = result.serving
    say(f"{model.name} is version {serving.version}{' now' if serving.promoted else ''}: {serving.reason}")
    where = workspace_option(result.workspace)
    say(f"next: headstart show {model.name}{where}; headstart predict {model.name} PICTURE...{where}")


def _say_plan(dataset: str, plan: Plan, reasons: Sequence[str]) -> None:
    from pipeline.decision.plan import describe_case  # loads NumPy

    size, similarity = plan.size, plan.similarity
    say(f"{dataset}: case {plan.case} ({describe_case(plan.case)}), strategy {plan.strategy}", style="bold")
    near = ", ".join(f"{row.name} {row.distance:.3f}" for row in similarity.references)
    say(
        f"{size.num_train:,} training pictures, {size.num_classes} classes, smallest {size.smallest_class}; "
        f"D_BN {similarity.distance:.3f} (early {similarity.early:.3f}, middle {similarity.middle:.3f}, "
        f"late {similarity.late:.3f}){f'; known datasets near it: {near}' if near else ''}"
    )
    for reason in reasons:
        say(f"  - {reason}")
    if plan.quote:
        say(f"quote: {describe_quote(plan.quote, plan.strategy)}")


def extracted(result: ExtractResult) -> None:
    """Print which features of a dataset are stored now."""
    found = result.extracted
    num_views = found.num_views
    views = f", {num_views} augmented view{'s' * (num_views > 1)} of each training picture" if num_views else ""
    say(f"{result.dataset}: {found.num_images:,} pictures{views} in space {result.spec.space().id}", style="bold")
    _say_features(found)
    _say_problems(found.rejected, result.notes)
    _say_seconds(result.seconds)
    if result.pack:
        say(f"pack in {result.pack}")


def verified(result: VerifyResult) -> None:
    """Print what was checked, how far this machine is from what is stored, and a line for each finding."""
    checked = ", ".join(f"{what} {number:,}" for what, number in result.checked.items())
    say(f"checked {result.workspace}: {checked or 'nothing is stored yet'}")
    if recomputed := result.recomputed:
        say(
            f"recomputed {recomputed.num_rows:,} of {recomputed.num_stored:,} rows whose pictures are known "
            f"(--seed {recomputed.seed}); wanted: relative differences of at most {recomputed.tolerance:.0e}"
        )
        worst = {row.space: row for row in sorted(recomputed.taps, key=lambda row: row.largest_difference)}
        rows = [
            (row.space, row.backbone, row.view, row.tap, row.num_rows, f"{row.largest_difference:.1e}")
            for row in worst.values()
        ]
        columns = ("space", "backbone", "view", "tap", "num_rows", "largest_difference")
        table("largest difference of each space", columns, rows)
    for found in result.findings:
        say(f"{found.what} {found.path}: {found.problem} {found.done} {found.next}")
    if not result.findings:
        say("No damage found.", style="bold")


def collected(result: GcResult) -> None:
    """Print what nothing needs, by kind and reason, and whether it was removed."""
    rows = []
    for (kind, reason), items in groupby(sorted(result.garbage, key=_kind_and_reason), _kind_and_reason):
        found = list(items)
        num_rows = sum(item.num_rows for item in found)
        megabytes = round(sum(item.num_bytes for item in found) / 1e6, 1)
        rows.append((kind, len(found), num_rows, megabytes, min(item.written for item in found), reason))
    if rows:
        columns = ("kind", "files", "rows", "megabytes", "oldest", "why")
        table("removed" if result.deleted else "not needed", columns, rows)
    for reason in result.left_alone:
        say(f"left alone: {reason}")
    size = f"{result.num_rows:,} rows, {result.num_bytes / 1e6:,.1f} MB"
    if not rows:
        say("Nothing to remove.", style="bold")
    elif result.deleted:
        say(f"Removed {size}.", style="bold")
    else:
        say(f"Not needed: {size}. Nothing was removed; run again with --delete.", style="bold")


def _kind_and_reason(item: GarbageRow) -> tuple[str, str]:
    return item.kind, item.reason


def inspected(found: BackboneLayers) -> None:
    """Print a backbone's layers and taps."""
    say(f"{found.backbone}: {found.num_parameters:,} parameters, {found.weights}", style="bold")
    layers = []
    for row in found.layers:
        shape, taps = " x ".join(map(str, row.output_shape)), ", ".join(row.taps)
        layers.append((row.name, row.kind, shape, row.num_parameters, row.arithmetic, taps))
    table("layers", ("layer", "kind", "output", "parameters", "arithmetic", "taps"), layers)
    table("taps", ("name", "layer", "kind", "dim"), [(tap.name, tap.layer, tap.kind, tap.dim) for tap in found.taps])
    say(
        "K filters of F x F on D_in channels have K·F·F·D_in + K parameters (no K if there is no bias); "
        'stride S makes ⌈H/S⌉ of H with "same" padding, ⌈(H-F+1)/S⌉ with "valid".'
    )


def listed(name: str, rows: Sequence[object], json: bool) -> None:
    """Print rows, frozen values of one kind, as a table; or as one JSON object that holds them under their name."""
    json_object({name: [to_json(row) for row in rows]}) if json else values(name, rows)


def _say_features(found: Extracted) -> None:
    num_reused = found.num_rows - found.num_computed
    say(f"features: {found.num_computed:,} computed, {num_reused:,} reused, {len(found.rejected):,} rejected")


def _say_metrics(metrics: Metrics | LabelMetrics) -> None:
    on = f"on {metrics.num_images:,} {metrics.split} pictures"
    rest = f"macro F1 {metrics.macro_f1:.3f}, log loss {metrics.log_loss:.3f}, calibration error {metrics.ece:.3f}"
    if isinstance(metrics, Metrics):
        low, high = metrics.accuracy_interval
        balanced = f"balanced {metrics.balanced_accuracy:.3f}"
        say(f"accuracy {metrics.accuracy:.3f} (95 %: {low:.3f} to {high:.3f}) {on}; {balanced}, {rest}")
    else:
        low, high = metrics.map_interval
        right = f"all labels right {metrics.subset_accuracy:.3f}, micro F1 {metrics.micro_f1:.3f}"
        say(f"mAP {metrics.mean_average_precision:.3f} (95 %: {low:.3f} to {high:.3f}) {on}; {right}, {rest}")


def _say_seconds(seconds: Mapping[str, float]) -> None:
    parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if name != "total" and value >= 0.05)
    say(f"seconds: {seconds['total']:.1f} ({parts})")


def markdown(text: str) -> None:
    """Print Markdown: laid out on a terminal, as it is elsewhere."""
    if sys.stdout.isatty():
        from rich.markdown import Markdown  # takes longer to import than all else of rich

        _stdout().print(Markdown(text))
    else:
        print(text)


def values(title: str, rows: Sequence[Any]) -> None:
    """Print frozen values of one kind as a table with a column for each field."""
    columns = [field.name for field in fields(rows[0])] if rows else []
    table(title, columns, [[getattr(row, name) for name in columns] for row in rows])


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], styles: Iterable[str] = ()) -> None:
    """Print rows; a tuple in one is lines below each other. Styles are of rows."""
    if not rows:
        print(f"no {title} yet", file=sys.stderr)
        return
    numbers = [
        name
        for name, cells in zip(columns, zip(*rows, strict=True), strict=True)
        if any(isinstance(cell, int | float) for cell in cells)
    ]
    grid = _grid(*columns, numbers=numbers, title=title)
    for row, style in zip_longest(rows, styles):
        grid.add_row(*(_lines(value) for value in row), style=style)
    _stdout().print(grid)


def _lines(value: object) -> Text:
    lines = value if isinstance(value, tuple) else (value,)
    return Text("\n").join(_text(_cell(line)) for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def predictions_table(rows: Iterable[Prediction]) -> int:
    """Print a table; returns how many rows failed."""
    grid = _grid("path", "label", "probability", "others")
    num_failed = 0
    for row in rows:
        if row.error is not None:
            num_failed += 1
            grid.add_row(_text(row.path), Text("error", style="red"), "", _text(row.error))
        else:
            given = _given(row)
            rest = ", ".join(f"{name} {value:.3f}" for name, value in row.top if (name, value) not in given)
            grid.add_row(_text(row.path), _text(_names(given)), _values(given, 3), _text(rest))
    _stdout().print(grid)
    return num_failed


def predictions_jsonl(rows: Iterable[Prediction]) -> int:
    """Print one JSON object per row, as it comes; returns how many rows failed."""
    num_failed = 0
    for row in rows:
        if row.error is not None:
            num_failed += 1
            print(json.dumps({"path": row.path, "error": row.error}), flush=True)
        else:
            label, probability = row.top[0]
            answer = {"label": label, "probability": probability} if row.labels is None else {"labels": row.labels}
            print(json.dumps({"path": row.path, **answer, "top": row.top}), flush=True)
    return num_failed


def predictions_csv(rows: Iterable[Prediction]) -> int:
    """Print CSV with a header, as it comes; returns how many rows failed."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    num_failed = 0
    for number, row in enumerate(rows):
        if number == 0:
            one = row.labels is None
            writer.writerow(["path", *(("label", "probability") if one else ("labels", "probabilities")), "error"])
        if row.error is not None:
            num_failed += 1
            writer.writerow([printable(row.path), "", "", printable(row.error)])
        else:
            given = _given(row)
            writer.writerow([printable(row.path), printable(_names(given)), _values(given, 6), ""])
    return num_failed


def _given(row: Prediction) -> Sequence[tuple[str, float]]:
    return row.top[:1] if row.labels is None else row.labels


def _names(given: Sequence[tuple[str, float]]) -> str:
    return SEPARATOR.join(name for name, _ in given)


def _values(given: Sequence[tuple[str, float]], digits: int) -> str:
    return SEPARATOR.join(f"{value:.{digits}f}" for _, value in given)


def printable(text: str) -> str:
    """Spell out what a terminal must not get: control characters, direction marks, bytes that are no UTF-8."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode("ascii")
        for letter in text
    )


def _stdout() -> Console:
    """Make a console as wide as the terminal, or wide enough for whole lines if there is no terminal."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_FILES, highlight=False)


def say(text: str = "", style: str = "") -> None:
    """Print a line that may hold names from outside."""
    _stdout().print(_text(text), style=style, soft_wrap=not sys.stdout.isatty())


def _say_problems(rejected: Sequence[Rejected], notes: Sequence[str]) -> None:
    for item in rejected[:NUM_NAMED]:
        say(f"  rejected {item.path}: {item.reason}")
    if len(rejected) > NUM_NAMED:
        say(f"  and {len(rejected) - NUM_NAMED} more rejected files; --json lists them all")
    for note in notes:
        say(f"  note: {note}")


def _grid(*columns: str, numbers: Sequence[str] = ("probability",), title: str | None = None) -> Table:
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        grid.add_column(name, overflow="fold", justify="right" if name in numbers else "left")
    return grid


def _text(text: str) -> Text:
    """Plain text: file and class names must not be read as markup, and must be printable."""
    return Text(printable(text))
