from dataclasses import replace

import numpy as np
import pytest

from pipeline.decision.nouns import Similarity, Size
from pipeline.decision.plan import Wishes, plan_case
from pipeline.decision.reconsider import LEAST_GAIN, REMOVED_OF_LARGE, REMOVED_OF_SMALL, reconsider
from pipeline.types import Head, HeadTap, Tap

TAPS = (Tap("stage5_grid", "block5", "grid", 1008, 0), Tap("top", "top_activation", "gap", 1280, 1))
DISTANCES = {"similar": 0.029, "different": 0.286}


def a_plan(similarity="similar", size="small", num_train=None, smallest=100, exclusive=True, **wishes):
    measured = Similarity(DISTANCES[similarity], 0.01, 0.02, 0.03, 160, similarity)
    num_train = num_train or (6_000 if size == "large" else 1_000)
    return plan_case(measured, Size(num_train, 10, smallest, size), "a_backbone", TAPS, Wishes(**wishes), exclusive)


def a_head(*names, loo_error=0.05):
    taps = [HeadTap(name, "gap", np.zeros((2, 2)), np.zeros(2), 1.0, 0.0, loo_error) for name in names]
    return Head(tuple(taps), 1.0, loo_error, 0.3)


def test_a_top_tap_that_is_enough_stays_the_head():
    plan = reconsider(a_plan(), a_head("top"))
    assert (plan.strategy, plan.changes) == ("head-on-top", ())


def test_similar_data_whose_other_taps_help_get_a_head_on_evidence():
    plan = reconsider(a_plan(), a_head("stage5_grid", "top"))
    assert (plan.case, plan.strategy, plan.textbook) == (1, "head-on-evidence", "head-on-top")
    assert plan.reasons[-1] == (
        "Held-out pictures changed the strategy from head-on-top to head-on-evidence: with stage5_grid beside the last "
        "layer, the head makes fewer mistakes on held-out pictures."
    )
    assert {item.strategy for item in plan.alternatives} == {"head-on-top", "fine-tune", "fine-tune-or-scratch"}


@pytest.mark.parametrize("similarity", DISTANCES)
def test_a_network_is_not_trained_for_less_than_a_point(similarity):
    enough = LEAST_GAIN / REMOVED_OF_LARGE
    plan = reconsider(a_plan(similarity, "large"), a_head("top", loo_error=0.9 * enough))
    assert plan.strategy == "head-on-top"
    assert "is expected to mend only 0.9% of all pictures, less than 1%" in plan.reasons[-1]
    assert plan.changes[-1].by == "evidence"
    still = a_plan(similarity, "large")
    assert reconsider(still, a_head("top", loo_error=1.1 * enough)).strategy == still.strategy


@pytest.mark.parametrize("wish", [{"strategy": "head-on-top"}, {"strategy": "fine-tune"}])
def test_a_wish_is_not_overruled_by_evidence(wish):
    plan = a_plan("different", "small", by="ada", **wish)
    after = reconsider(plan, a_head("stage5_grid", loo_error=0.001))
    assert (after.strategy, after.changes) == (plan.strategy, plan.changes)


@pytest.mark.parametrize(
    ("rule", "case", "names", "loo_error", "strategy"),
    [
        (("similar", "small"), 3, ("top",), 0.001, "fine-tune"),  # the head leaves nothing to gain
        (("different", "small"), 4, ("top",), 0.001, "fine-tune-or-scratch"),
        (("similar", "large"), 2, ("stage5_grid", "top"), 0.5, "head-on-evidence"),  # it leaves much to gain
        (("similar", "large"), 1, ("stage5_grid", "top"), 0.5, "head-on-top"),
        (("similar", "small"), 1, ("stage5_grid", "top"), 0.05, "head-on-top"),  # the rule says the same
    ],
)
def test_a_case_that_a_person_chose_stays_whatever_the_head_shows(rule, case, names, loo_error, strategy):
    plan = reconsider(a_plan(*rule, case=case, by="ada"), a_head(*names, loo_error=loo_error))
    assert (plan.case, plan.strategy) == (case, strategy)
    (change,) = plan.changes
    assert (change.what, change.value, change.by) == ("case", str(case), "ada")
    assert any(reason.startswith(f"ada chose case {case}") for reason in plan.reasons)


def test_who_asks_for_the_case_of_a_head_on_top_gets_only_the_last_layer():
    assert a_plan("different", "large", case=1, by="ada").taps == ("top",)


def test_a_case_that_is_not_offered_for_these_labels_leaves_the_choice_of_layers_to_evidence():
    plan = a_plan("similar", exclusive=False, case=3, by="ada")
    head = replace(a_head("stage5_grid", "top"), activation="sigmoid", thresholds=(0.5, 0.5))
    assert (len(plan.taps), reconsider(plan, head).strategy) == (len(TAPS), "head-on-evidence")


@pytest.mark.parametrize("similarity", DISTANCES)
def test_a_network_is_trained_on_small_data_where_the_head_leaves_much(similarity):
    enough = LEAST_GAIN / REMOVED_OF_SMALL
    plan = reconsider(a_plan(similarity), a_head("stage5_grid", "top", loo_error=1.1 * enough))
    assert plan.strategy == "fine-tune"
    assert plan.changes[-1].by == "evidence"
    assert plan.textbook in {item.strategy for item in plan.alternatives}
    assert reconsider(a_plan(similarity), a_head("top", loo_error=0.9 * enough)).strategy != "fine-tune"


@pytest.mark.parametrize("few", [{"num_train": 799}, {"smallest": 9}])
def test_no_error_is_large_enough_where_pictures_are_too_few(few):
    plan = reconsider(a_plan("different", **few), a_head("stage5_grid", "top", loo_error=0.9))
    assert plan.strategy == "head-on-evidence"
    assert plan.signals[-1].value == 0


def test_labels_that_exclude_no_other_get_a_head_whatever_it_leaves():
    head = replace(a_head("stage5_grid", "top", loo_error=0.9), activation="sigmoid")
    assert reconsider(a_plan("similar"), head).strategy == "head-on-evidence"


def test_the_gain_is_a_signal_with_its_margin():
    signal = reconsider(a_plan(), a_head("top", loo_error=0.05)).signals[-1]
    assert signal.margin == pytest.approx(0.05 * REMOVED_OF_SMALL - LEAST_GAIN)


def test_the_same_head_gives_the_same_plan():
    plan = a_plan("different", "large")
    assert reconsider(plan, a_head("top")) == reconsider(replace(plan), a_head("top"))


def test_labels_that_do_not_exclude_each_other_are_not_promised_fine_tuning():
    head = replace(a_head("stage5_grid", "top"), activation="sigmoid", thresholds=(0.5, 0.5))
    plan = reconsider(a_plan(), head)
    assert plan.strategy == "head-on-evidence"
    assert "most that fine-tuning can gain" not in {signal.name for signal in plan.signals}
