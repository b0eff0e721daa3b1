from types import SimpleNamespace

import pytest

from flows import stopwatch
from flows.onboarding import planning
from pipeline.backbones.table import get_backbone
from pipeline.decision.quote import Rates
from storage.workspace import Workspace

SPEC = get_backbone("efficientnet_lite0")


@pytest.fixture
def open_workspace(workspace):
    return Workspace.open(workspace)


def test_nothing_is_known_of_a_machine_that_has_done_nothing(open_workspace):
    assert planning.rates_of(open_workspace, SPEC) == Rates(None, None)


def test_a_rate_is_kept_for_the_next_quote(open_workspace):
    planning.remember_rate(open_workspace, SPEC, "extracted", 1000, 10.0)
    planning.remember_rate(open_workspace, SPEC, "trained", 1000, 100.0)
    assert planning.rates_of(open_workspace, SPEC) == Rates(100.0, 10.0)


def test_a_rate_stays_until_another_one_says_something_new(open_workspace):
    for seconds, kept in ((10.0, 100.0), (11.0, 100.0), (20.0, 50.0)):
        planning.remember_rate(open_workspace, SPEC, "extracted", 1000, seconds)
        assert planning.rates_of(open_workspace, SPEC).extracted == kept


@pytest.mark.parametrize(("num_images", "seconds"), [(199, 1.0), (1000, 0.0)])
def test_too_few_pictures_say_nothing_of_a_rate(open_workspace, num_images, seconds):
    planning.remember_rate(open_workspace, SPEC, "extracted", num_images, seconds)
    assert planning.rates_of(open_workspace, SPEC) == Rates(None, None)


def test_another_size_has_rates_of_its_own(open_workspace):
    planning.remember_rate(open_workspace, SPEC, "extracted", 1000, 10.0)
    assert planning.rates_of(open_workspace, get_backbone("efficientnet_lite0", 96)) == Rates(None, None)


def test_a_plan_without_a_quote_has_no_score(open_workspace):
    with stopwatch.timed():
        assert planning.score(open_workspace, SPEC, SimpleNamespace(quote=None), None) is None
