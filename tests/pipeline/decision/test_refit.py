from dataclasses import fields
from functools import cache

import numpy as np

from pipeline.decision.audited import AuditResult, Signals, StrategyRow
from pipeline.decision.plan import LARGE_FROM_DIFFERENT, LARGE_FROM_SIMILAR
from pipeline.decision.refit import refit_thresholds
from pipeline.decision.regret import judge_audit
from pipeline.jsonable import from_json, to_json
from tests.factories import a_gate

NUM_TEST = 1000


@cache
def correct(accuracy):
    """Which pictures are right: the first ones of a fixed shuffle."""
    right = np.random.default_rng(0).permutation(NUM_TEST) < accuracy * NUM_TEST
    return np.packbits(right).tobytes().hex()


def an_audit(dataset, num_train, head, tuned, similar=False):
    """An audit as `headstart audit` keeps it, read back from its JSON."""
    accuracy = {"head-on-top": head, "head-on-evidence": head, "fine-tune": tuned, "scratch": 0.1}
    rows = tuple(StrategyRow(name, rate, 1.0, correct(rate), 10, 1.0) for name, rate in accuracy.items())
    judged = judge_audit(rows, tuned > head, "fine-tune", NUM_TEST)
    result = AuditResult(
        job="a" * 16,
        dataset=dataset,
        case=3,
        textbook="fine-tune",
        chosen="fine-tune",
        signals=Signals("efficientnet_lite0", 64, num_train, 2, num_train // 2, 0.1, similar, 0.1),
        budget_epochs=6,
        num_test=NUM_TEST,
        test_split="test",
        strategies=rows,
        gate=a_gate(tuned > head),
        seconds={"total": 1.0},
        **{field.name: getattr(judged, field.name) for field in fields(judged)},
    )
    assert from_json(AuditResult, to_json(result)) == result
    return result


def audits_where_it_pays_from(threshold, datasets="abcd", similar=False):
    return [
        an_audit(name, num, 0.7, 0.8 if num >= threshold else 0.7, similar)
        for name in datasets
        for num in (500, 1000, 3000, 9000)
    ]


def test_the_threshold_is_where_fine_tuning_begins_to_pay():
    _, different = refit_thresholds(audits_where_it_pays_from(1000))
    assert (different.refitted, different.num_audits, different.num_datasets) == (1000, 16, 4)
    assert different.refitted_cost < different.current_cost
    assert different.held_out_cost == different.refitted_cost  # the datasets are alike


def test_similar_and_different_data_have_thresholds_of_their_own():
    similar, different = refit_thresholds(
        [*audits_where_it_pays_from(3000, similar=True), *audits_where_it_pays_from(500)]
    )
    assert (similar.refitted, different.refitted) == (3000, 500)


def test_a_gain_below_the_price_of_the_compute_is_none():
    audits = [an_audit(name, num, 0.700, 0.705) for name in "abc" for num in (3000, 9000)]
    assert refit_thresholds(audits)[1].refitted is None


def test_a_threshold_stays_unless_another_one_is_better():
    audits = [an_audit(name, num, 0.7, 0.8) for name in "abc" for num in (LARGE_FROM_DIFFERENT, 9000)]
    assert refit_thresholds(audits)[1].refitted == LARGE_FROM_DIFFERENT


def test_two_datasets_are_too_few():
    similar, different = refit_thresholds(audits_where_it_pays_from(1000, "ab"))
    assert (different.refitted, different.held_out_cost) == (None, None)
    assert (similar.current, similar.num_audits) == (LARGE_FROM_SIMILAR, 0)


def test_a_dataset_that_is_unlike_the_others_costs_when_held_out():
    audits = [*audits_where_it_pays_from(500, "abc"), *(an_audit("odd", num, 0.9, 0.8) for num in (500, 1000, 3000))]
    different = refit_thresholds(audits)[1]
    assert different.held_out_cost >= different.refitted_cost
