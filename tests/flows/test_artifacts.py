"""When the curve of a training is written; what Prefect then shows is in test_jobs."""

import httpx
import pytest

from flows.artifacts import CurveArtifacts, artifact_key


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def written(monkeypatch):
    """What is put: tables as their number of rows, progress as per cent."""
    found = []

    def put(self, artifact):
        found.append(len(artifact.table) if hasattr(artifact, "table") else artifact.progress)

    monkeypatch.setattr(CurveArtifacts, "_put", put)
    return found


def a_row(epoch):
    return {"epoch": epoch, "num_epochs": 8, "val_accuracy": 0.5}


def test_epochs_that_follow_each_other_quickly_are_written_together(written):
    clock = Clock()
    curve = CurveArtifacts("flowers", print, clock)
    for clock.now, epoch in ((0.0, 1), (4.0, 2), (9.9, 3), (10.0, 4), (12.0, 5)):
        curve.add(a_row(epoch))
    assert written == [1, 12.5, 4, 50.0]


def test_the_whole_curve_is_written_at_the_end_whenever_that_is(written):
    curve = CurveArtifacts("flowers", print, Clock())
    curve.add(a_row(7))
    curve.finish([a_row(epoch) for epoch in range(8)])
    assert written == [1, 87.5, 8, 100.0]


def test_a_server_that_is_away_costs_a_warning_and_not_the_training(monkeypatch):
    def fail(self, artifact):
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(CurveArtifacts, "_put", fail)
    warnings = []
    CurveArtifacts("flowers", warnings.append).add(a_row(1))
    assert ["the training goes on" in warning for warning in warnings] == [True]


def test_an_artifact_has_a_name_that_prefect_allows():
    assert artifact_key("my_flowers.v2") == "finetune-my-flowers-v2"
