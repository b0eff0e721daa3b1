"""What a run shows in the Prefect UI. Each kind is keyed by its dataset, so that its page there is the history.

Heavy leaf: importing it loads Prefect.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from prefect.artifacts import Artifact, LinkArtifact, MarkdownArtifact, ProgressArtifact, TableArtifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from flows.finetuning.epochs import Row, table_of
from flows.progress import Lines
from pipeline.decision.finetuned import JobStatus
from pipeline.report.decision import quadrant, why
from pipeline.report.markdown import text
from pipeline.report.record import ModelRef, metrics_part
from pipeline.types import LabelMetrics, Metrics
from storage.models.bundles import REPORT_FILE

SECONDS_BETWEEN_WRITES = 10.0

Warn = Callable[[str], None]


class Showcase:
    """Writes the artifacts of a run; a server that is away costs a picture, never the run."""

    def __init__(self, warn: Warn) -> None:
        self._warn = warn
        self._ids: dict[str, Any] = {}  # of the artifacts that this run has made

    def put(self, slot: str, artifact: Artifact) -> None:
        """Make an artifact of the run, or change the one it has in that slot: each making is a row in the history."""
        try:
            if slot in self._ids:
                with get_client(sync_client=True) as client:
                    client.update_artifact(self._ids[slot], ArtifactUpdate(data=artifact.format()))
            else:
                made: Any = artifact.create()
                self._ids[slot] = made.id
        except httpx.HTTPError as error:
            self._warn(f"{slot} could not be shown in Prefect ({type(error).__name__}); the run continues.")


class RunProgress(Lines):
    """Progress as lines in the log and as a bar in the UI, one for each stage."""

    def __init__(
        self, write: Callable[[str], None], showcase: Showcase, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(write, clock)
        self._showcase, self._shown = showcase, -math.inf

    def advance(self, num_done: int) -> None:
        super().advance(num_done)
        if self._clock() - self._shown >= SECONDS_BETWEEN_WRITES:
            self._shown = self._clock()
            self._show(100.0 * self._done / max(self._total, 1))

    def finish(self) -> None:
        super().finish()
        self._show(100.0)

    def _show(self, percent: float) -> None:
        bar = ProgressArtifact(description=self._stage.capitalize(), progress=min(percent, 100.0))
        self._showcase.put(f"the progress of {self._stage}", bar)


class CurveArtifacts:
    """A training's curve: a table and a progress bar, written now and then."""

    def __init__(self, name: str, showcase: Showcase, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = artifact_key("finetune", name)
        self._showcase, self._clock = showcase, clock
        self._rows: list[object] = []
        self._written = -math.inf

    def add(self, status: JobStatus) -> None:
        """Add an epoch; it is written unless the last writing was moments ago."""
        self._rows.append(status)
        if self._clock() - self._written >= SECONDS_BETWEEN_WRITES:
            self._write(min(100.0, 100.0 * status.epoch / status.num_epochs))

    def finish(self, rows: Sequence[object]) -> None:
        """Write the whole curve, with what earlier attempts have added."""
        self._rows = list(rows)
        self._write(100.0)

    def _write(self, percent: float) -> None:
        self._written = self._clock()
        table = TableArtifact(key=self._key, description="One row an epoch", table=table_of(self._rows))
        self._showcase.put("the curve", table)
        self._showcase.put("the progress of epochs", ProgressArtifact(description="Epochs", progress=percent))


def show_model(showcase: Showcase, ref: ModelRef) -> None:
    """Show a saved model: its plan, its figures, a row a class, its report and the place of its files."""
    name, record, title, report = ref.name, ref.record, str(ref), Path(ref.path, REPORT_FILE)
    plan, metrics = record.plan, record.metrics
    artifacts = {
        "plan": MarkdownArtifact(
            key=artifact_key("plan", name),
            description=f"Plan of {name}",
            markdown="\n\n".join([f"# {text(name)}: case {plan.case}", "\n".join(quadrant(plan)), why(record)]),
        ),
        "metrics": TableArtifact(
            key=artifact_key("metrics", name),
            description=f"{title} on {metrics.num_images:,} {metrics.split} pictures",
            table=table_of(figures(metrics)),
        ),
        "classes": TableArtifact(
            key=artifact_key("classes", name),
            description=f"{title}, each class",
            table=table_of(metrics.per_class),
        ),
        "report": MarkdownArtifact(
            key=artifact_key("report", name), description=f"Report of {title}", markdown=report.read_text("utf-8")
        ),
        "link": LinkArtifact(
            key=artifact_key("files", name),
            description=f"Files of {title}, as the worker sees them",
            link=report.as_uri(),
            link_text=str(report),
        ),
    }
    for kind, artifact in artifacts.items():
        showcase.put(f"the {kind} of {title}", artifact)


def show_rows(showcase: Showcase, kind: str, name: str, description: str, rows: Sequence[object]) -> None:
    """Show a table; one without rows is shown as a row that says so."""
    table = table_of(rows) or [{"": "nothing"}]
    showcase.put(kind, TableArtifact(key=artifact_key(kind, name), description=description, table=table))


def figures(metrics: Metrics | LabelMetrics) -> list[Row]:
    """List the figures of a model, each with its 95 % interval if it has one."""
    if isinstance(metrics, LabelMetrics):
        intervals = {"mean_average_precision": metrics.map_interval}
    else:
        intervals = {**metrics.intervals, "accuracy": metrics.accuracy_interval}
    rows: list[Row] = []
    for figure, value in metrics_part(metrics).items():
        if isinstance(value, int | float):
            low, high = intervals.get(figure, (None, None))
            rows.append({"figure": figure, "value": value, "low": low, "high": high})
    return rows


def artifact_key(kind: str, name: str) -> str:
    """Name the artifact of a dataset: Prefect allows lower-case letters, digits and dashes.

    >>> artifact_key("plan", "my_flowers.v2")
    'plan-my-flowers-v2'
    """
    return f"{kind}-{re.sub('[^a-z0-9]', '-', name)}"
