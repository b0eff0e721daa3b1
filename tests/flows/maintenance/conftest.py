"""A first run whose dataset is where its manifest says, and what is done with it."""

from __future__ import annotations

import pytest

from flows.requests import OnboardRequest
from tests import factories


@pytest.fixture
def moved(again):
    """A copy of the first run, whose dataset is where its manifest says; to be changed."""
    run_step(factories.scan, again)
    return again


def run_step(step, run):
    return step(OnboardRequest(str(run.folder), str(run.workspace), name="shapes"))
