"""A saved model, and its predictions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.api.plan import Plan
from storage.models.bundles import REPORT_FILE

if TYPE_CHECKING:
    from pipeline.decision.finetuned import Gate
    from pipeline.report.record import ModelRecord, ModelRef
    from pipeline.types import LabelMetrics, Metrics
    from storage.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one picture; flat, so that a DataFrame of many reads well."""

    path: str
    label: str | None  # the most probable class; None if the picture could not be read
    probability: float | None  # of that class, 0-1
    top: tuple[tuple[str, float], ...]  # (class, probability), the most probable first
    labels: tuple[str, ...] | None  # that reach their thresholds, if a picture may have several; else None
    error: str | None  # why there is no prediction


class Model:
    """A saved version of a model.

    >>> model = headstart.load("flowers@2")  # doctest: +SKIP
    >>> model.metrics.accuracy, model.predict("new/1.jpg")[0].label  # doctest: +SKIP
    (0.93, 'rose')

    In a notebook it is shown as its report.
    """

    def __init__(self, workspace: Workspace, ref: ModelRef, gate: Gate | None = None) -> None:
        self._workspace = workspace
        self._ref = ref
        self._gate = gate

    @property
    def name(self) -> str:
        """Of the model, which is that of its dataset."""
        return self._ref.name

    @property
    def version(self) -> int:
        """Its number, from 1 on."""
        return self._ref.version

    @property
    def path(self) -> Path:
        """The folder that holds `model.keras`, `classes.json`, `record.json` and `report.md`."""
        return Path(self._ref.path)

    @property
    def record(self) -> ModelRecord:
        """Everything that the version was made from: inputs, decisions, versions, metrics, seconds."""
        return self._ref.record

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the model's outputs."""
        return tuple(self.record.data.classes)

    @property
    def plan(self) -> Plan:
        """What was decided, and why."""
        return Plan.of(self.record.plan)

    @property
    def metrics(self) -> Metrics | LabelMetrics:
        """How good the model is on its test pictures, with intervals."""
        return self.record.metrics

    @property
    def gate(self) -> Gate | None:
        """How the last fine-tuning compared with the head; None if there was none."""
        return self._gate or (self.record.finetune.gate if self.record.finetune else None)

    @property
    def report(self) -> str:
        """The report, in Markdown."""
        return (self.path / REPORT_FILE).read_text(encoding="utf-8")

    def predict(
        self, pictures: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, top: int = 3
    ) -> list[Prediction]:
        """Predict pictures.

        Parameters
        ----------
        pictures
            A file, a folder of files, or any number of these.
        top
            How many classes to name for each picture.

        Returns
        -------
        list[Prediction]
            One for each file, in order. A file that cannot be read has its `error`.

        Raises
        ------
        UsageError
            No picture is named, or `top` is below 1.
        DamagedError
            The model's files have changed since it was saved.
        """
        from flows.prediction.files import files_below, predict_with
        from pipeline.errors import UsageError

        named = [pictures] if isinstance(pictures, str | os.PathLike) else list(pictures)
        if top < 1 or not named:
            raise UsageError("Wanted: at least one picture, and top of at least 1.")
        found = predict_with(self._workspace, self._ref, files_below(os.fspath(path) for path in named), top)
        return [
            Prediction(
                path=row.path,
                label=row.top[0][0] if row.top else None,
                probability=row.top[0][1] if row.top else None,
                top=row.top,
                labels=None if row.labels is None else tuple(name for name, _ in row.labels),
                error=row.error,
            )
            for row in found
        ]

    def finetune(self, *, epochs: int | None = None) -> Model:
        """Train the whole network, starting from the newest head of this model; interrupted, call it again.

        Parameters
        ----------
        epochs
            Maximum number of passes over the training pictures; by default it depends on how many there are.

        Returns
        -------
        Model
            The new version if it is better than the head, else this one; `gate` says how the two compare.

        Raises
        ------
        UsageError
            A picture may have several labels; fine-tuning is not offered for that yet.
        DataError
            There are too few pictures, or they are gone.
        ConflictError
            Another process is running the same job.
        """
        from flows.finetuning.job import finetune
        from flows.requests import FinetuneRequest
        from storage.models.serving import get_model

        result = finetune(FinetuneRequest(name=self.name, workspace=str(self._workspace.root), epochs=epochs))
        if result.model is None:
            return Model(self._workspace, self._ref, result.gate)
        return Model(self._workspace, get_model(self._workspace, f"{self.name}@{result.model.version}"), result.gate)

    def promote(self) -> None:
        """Let this version serve, which means that the model's name stands for it, whatever comparisons say."""
        from flows.versions.promote import promote_by_hand

        promote_by_hand(str(self._workspace.root), f"{self.name}@{self.version}")

    def __repr__(self) -> str:
        return f"Model({self.name}@{self.version}, {len(self.classes)} classes, case {self.plan.case})"

    def _repr_markdown_(self) -> str:
        return self.report
