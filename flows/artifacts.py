"""A training's curve in the Prefect UI: a table and a progress bar, written now and then.

Heavy leaf: importing it loads Prefect.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from prefect.artifacts import Artifact, ProgressArtifact, TableArtifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from flows.curve import Row, table_of

SECONDS_BETWEEN_WRITES = 10.0


class CurveArtifacts:
    """Writes the two artifacts of a run; a server that is away costs a picture, never the training."""

    def __init__(
        self,
        name: str,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key = artifact_key(name)
        self._warn, self._clock = warn, clock
        self._rows: list[Row] = []
        self._ids: dict[str, Any] = {}  # of the artifacts that this run has made
        self._written = -math.inf

    def add(self, row: Row) -> None:
        """Add an epoch; it is written unless the last writing was moments ago."""
        self._rows.append(row)
        if self._clock() - self._written >= SECONDS_BETWEEN_WRITES:
            self._write(min(100.0, 100.0 * row["epoch"] / row["num_epochs"]))

    def finish(self, rows: Sequence[Row]) -> None:
        """Write the whole curve, with what earlier attempts have added."""
        self._rows = list(rows)
        self._write(100.0)

    def _write(self, percent: float) -> None:
        self._written = self._clock()
        try:
            self._put(TableArtifact(key=self._key, description="One row an epoch", table=table_of(self._rows)))
            self._put(ProgressArtifact(description="Epochs", progress=percent))
        except httpx.HTTPError as error:
            self._warn(f"The curve could not be shown in Prefect ({type(error).__name__}); the training goes on.")

    def _put(self, artifact: Artifact) -> None:
        """Make an artifact of the run, or change the one it has: another version an epoch would be a row each."""
        kind = type(artifact).__name__
        if kind in self._ids:
            with get_client(sync_client=True) as client:
                client.update_artifact(self._ids[kind], ArtifactUpdate(data=artifact.format()))
        else:
            made: Any = artifact.create()
            self._ids[kind] = made.id


def artifact_key(name: str) -> str:
    """Name the artifact of a dataset: Prefect allows lower-case letters, digits and dashes.

    >>> artifact_key("my_flowers.v2")
    'finetune-my-flowers-v2'
    """
    return f"finetune-{re.sub('[^a-z0-9]', '-', name)}"
