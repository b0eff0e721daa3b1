import numpy as np
import pytest

from pipeline.decision.audited import Compute, StrategyRow
from pipeline.decision.regret import judge_audit, measure_regret, pack_correct, unpack_correct


def bits(text):
    """One picture per letter, each 100 times, so that any half of them is like the other."""
    return np.array([letter == "1" for letter in text * 100])


def test_what_was_packed_is_unpacked():
    probabilities = np.random.default_rng(0).random((21, 3))
    labels = np.arange(21) % 3
    correct = probabilities.argmax(axis=1) == labels
    np.testing.assert_array_equal(unpack_correct(pack_correct(probabilities, labels), 21), correct)


def test_the_best_strategy_has_no_regret():
    regret = measure_regret({"a": bits("1111"), "b": bits("1100")}, "a")
    assert (regret.best, regret.points, regret.naive_points, regret.standard_error) == ("a", 0, 0, 0)


def test_regret_is_the_gap_to_the_best_in_points():
    regret = measure_regret({"a": bits("11110000"), "b": bits("11111100")}, "a")
    assert (regret.best, regret.naive_points) == ("b", 25)
    assert regret.points == pytest.approx(25, abs=0.5)
    assert regret.standard_error == pytest.approx(100 * np.sqrt(0.25 * 0.75 / 800))


def test_chance_looks_better_to_naive_hindsight():
    rng = np.random.default_rng(0)
    regrets = [
        measure_regret({str(arm): rng.random(200) < 0.5 for arm in range(10)}, "0") for _ in range(300)
    ]  # ten strategies that are all the same coin
    assert np.mean([regret.naive_points for regret in regrets]) > 3
    assert abs(np.mean([regret.points for regret in regrets])) < 1


def test_of_equals_the_cheap_one_is_the_best():
    assert measure_regret({"cheap": bits("1110"), "dear": bits("0111")}, "dear").best == "cheap"


STRATEGIES = [
    StrategyRow(
        strategy=name,
        accuracy=text.count("1") / 8,
        log_loss=1.0,
        correct=np.packbits(bits(text)).tobytes().hex(),
        multiply_adds=cost,
        seconds=1.0,
    )
    for name, text, cost in [
        ("head-on-top", "11000000", 10),
        ("head-on-evidence", "11110000", 10),
        ("fine-tune", "11111100", 180),
        ("scratch", "10000000", 200),
    ]
]


def test_a_head_costs_the_features_alone():
    judged = judge_audit(STRATEGIES, passed=True, chosen="head-on-evidence", num_images=800)
    assert judged.delivered == "head-on-evidence"
    assert judged.compute == Compute(spent=10, share_of_finetuning=10 / 180, share_of_everything=10 / 400)
    assert judged.regret.naive_points == 25


def test_fine_tuning_that_fails_its_gate_delivers_the_head_and_costs_all_the_same():
    judged = judge_audit(STRATEGIES, passed=False, chosen="fine-tune", num_images=800)
    assert judged.delivered == "head-on-evidence"
    assert judged.compute.spent == 190


def test_fine_tuning_that_passes_its_gate_is_delivered():
    judged = judge_audit(STRATEGIES, passed=True, chosen="fine-tune-or-scratch", num_images=800)
    assert (judged.delivered, judged.regret.naive_points) == ("fine-tune", 0)


def test_every_constant_policy_is_judged_on_the_same_pictures():
    policies = judge_audit(STRATEGIES, passed=True, chosen="fine-tune", num_images=800).constant_policies
    assert [policies[row.strategy].naive_points for row in STRATEGIES] == [50, 25, 0, 62.5]
