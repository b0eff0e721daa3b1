"""When artifacts are written, and what of; what Prefect then shows is in test_jobs."""

from dataclasses import asdict

import httpx
import numpy as np
import pytest

from flows.service.artifacts import CurveArtifacts, RunProgress, Showcase, artifact_key, figures
from pipeline.decision.finetuned import JobStatus
from pipeline.evaluation.classes import evaluate
from pipeline.jsonable import to_json
from tests import factories

pytestmark = pytest.mark.prefect


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def written(monkeypatch):
    """What is put: tables as their number of rows, progress as per cent."""
    found = []

    def put(self, slot, artifact):
        found.append(len(artifact.table) if hasattr(artifact, "table") else artifact.progress)

    monkeypatch.setattr(Showcase, "put", put)
    return found


def a_status(epoch):
    return JobStatus(**asdict(factories.a_curve(8)[epoch]), arm="fine-tune", num_epochs=8)


def test_epochs_that_follow_each_other_quickly_are_written_together(written):
    clock = Clock()
    curve = CurveArtifacts("flowers", Showcase(print), clock)
    for clock.now, epoch in ((0.0, 1), (4.0, 2), (9.9, 3), (10.0, 4), (12.0, 5)):
        curve.add(a_status(epoch))
    assert written == [1, 12.5, 4, 50.0]


def test_the_whole_curve_is_written_at_the_end_whenever_that_is(written):
    curve = CurveArtifacts("flowers", Showcase(print), Clock())
    curve.add(a_status(7))
    curve.finish([to_json(a_status(epoch)) for epoch in range(8)])
    assert written == [1, 87.5, 8, 100.0]


def test_a_server_that_is_away_costs_a_warning_and_not_the_training(monkeypatch):
    def fail(self):
        raise httpx.ConnectError("refused")

    monkeypatch.setattr("flows.service.artifacts.TableArtifact.create", fail)
    monkeypatch.setattr("flows.service.artifacts.ProgressArtifact.create", fail)
    warnings = []
    CurveArtifacts("flowers", Showcase(warnings.append)).add(a_status(1))
    assert ["the run continues" in warning for warning in warnings] == [True, True]


def test_a_bar_is_written_now_and_then_and_at_the_end(written):
    clock, lines = Clock(), []
    progress = RunProgress(lines.append, Showcase(print), clock)
    progress.start("extract", 10)
    for clock.now in (1.0, 2.0, 11.5, 12.0):
        progress.advance(2)
    progress.finish()
    assert written == [20.0, 60.0, 100.0]
    assert lines[-1].startswith("extract: 8 of 10")


def test_every_figure_of_a_model_is_a_row_with_its_interval():
    scores = np.eye(2)[[0, 0, 0, 1]] * 0.8 + 0.1
    metrics = evaluate([0, 0, 1, 1], scores, ("a", "b"), "test")
    rows = {row.pop("figure"): row for row in figures(metrics)}
    assert rows["num_images"] == {"value": 4, "low": None, "high": None}
    low, high = metrics.accuracy_interval
    assert rows["accuracy"] == {"value": 0.75, "low": low, "high": high}
    low, high = metrics.intervals["ece"]
    assert rows["ece"] == {"value": metrics.ece, "low": low, "high": high}
    assert not {"per_class", "confusion", "split"} & rows.keys()


def test_an_artifact_has_a_name_that_prefect_allows():
    assert artifact_key("plan", "my_flowers.v2") == "plan-my-flowers-v2"
