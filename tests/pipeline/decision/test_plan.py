import numpy as np
import pytest

from pipeline.decision.nouns import Change, Similarity, Size
from pipeline.decision.plan import CASES, NO_WISHES, Wishes, measure_size, plan_case
from pipeline.errors import DataError, UsageError
from pipeline.types import Tap

TAPS = (
    Tap("stage5_gap", "block5", "gap", 112, 0),
    Tap("stage5_grid", "block5", "grid", 1008, 0),
    Tap("top", "top_activation", "gap", 1280, 1),
)
DISTANCES = {"similar": 0.029, "ambiguous": 0.07, "different": 0.286}


def a_similarity(verdict="similar"):
    return Similarity(DISTANCES[verdict], 0.01, 0.02, 0.03, 160, verdict)


def a_plan(similarity="similar", size="small", num_train=1000, smallest=100, wishes=NO_WISHES):
    return plan_case(a_similarity(similarity), Size(num_train, 10, smallest, size), "a_backbone", TAPS, wishes)


def labels_of(num_train, smallest):
    """Two classes, the smaller with `smallest` pictures."""
    return [0] * (num_train - smallest) + [1] * smallest


@pytest.mark.parametrize(
    ("num_train", "smallest", "similarity", "verdict"),
    [
        (4_999, 100, "similar", "small"),
        (5_000, 100, "similar", "large"),
        (1_999, 100, "different", "small"),
        (2_000, 100, "different", "large"),
        (1_999, 100, "ambiguous", "small"),
        (2_000, 100, "ambiguous", "large"),
        (799, 100, "different", "small"),
        (800, 100, "different", "small"),
        (50_000, 9, "different", "small"),
        (50_000, 10, "different", "large"),
        (50_000, 9, "similar", "small"),
        (50_000, 10, "similar", "large"),
    ],
)
def test_size_has_exact_boundaries(num_train, smallest, similarity, verdict):
    size = measure_size(labels_of(num_train, smallest), 2, similarity)
    assert (size.num_train, size.smallest_class, size.verdict) == (num_train, smallest, verdict)


def test_a_class_without_pictures_is_the_smallest():
    assert measure_size([0, 0, 1], 3, "similar").smallest_class == 0


@pytest.mark.parametrize(
    ("similarity", "size", "case", "strategy", "taps"),
    [
        ("similar", "small", 1, "head-on-top", ("stage5_gap", "stage5_grid", "top")),
        ("different", "small", 2, "head-on-evidence", ("stage5_gap", "stage5_grid", "top")),
        ("similar", "large", 3, "fine-tune", ("stage5_gap", "stage5_grid", "top")),
        ("different", "large", 4, "fine-tune-or-scratch", ("stage5_gap", "stage5_grid", "top")),
        ("ambiguous", "small", 2, "head-on-evidence", ("stage5_gap", "stage5_grid", "top")),
        ("ambiguous", "large", 4, "fine-tune-or-scratch", ("stage5_gap", "stage5_grid", "top")),
    ],
)
def test_two_axes_make_four_cases(similarity, size, case, strategy, taps):
    plan = a_plan(similarity, size, num_train=6_000 if size == "large" else 1_000)
    assert (plan.case, plan.strategy, plan.taps) == (case, strategy, taps)
    assert plan.backbone == "a_backbone"


def test_every_reason_is_a_sentence_and_the_first_two_are_measured():
    plan = a_plan("similar", "small", num_train=1_000)
    assert all(reason.endswith(".") for reason in plan.reasons)
    assert plan.reasons[0] == (
        "Similar: to the network, your pictures look much like the photographs it was trained on. "
        "The distance (D_BN) is 0.029 on 160 pictures; below 0.05 is similar."
    )
    assert plan.reasons[1] == ("Small: 1,000 training pictures, 4,000 short of the 5,000 needed for similar data.")


def test_different_data_name_their_margin():
    assert a_plan("different").reasons[0] == (
        "Different: to the network, your pictures look unlike the photographs it was trained on. "
        "The distance (D_BN) is 0.286 on 160 pictures; above 0.09 is different."
    )


def test_ambiguous_data_say_that_they_are_treated_as_different():
    assert (
        "between 0.05 (similar) and 0.09 (different). headstart treats the pictures as different"
        in a_plan("ambiguous").reasons[0]
    )


def test_the_reason_for_small_names_what_is_missing():
    assert "fewer than 800 is always small" in a_plan(num_train=799).reasons[1]
    assert "the smallest of the 10 classes has only 9" in a_plan(num_train=6_000, smallest=9).reasons[1]


def test_a_large_dataset_is_told_that_its_head_comes_first():
    plan = a_plan("different", "large", num_train=2_500)
    assert "500 over the 2,000 needed for different data" in plan.reasons[1]
    assert plan.reasons[-1].startswith(
        "The strategy is fine-tune-or-scratch. Until that has run, a head on up to 3 layers"
    )


def test_the_textbook_speaks_in_every_case():
    for case in CASES.values():
        assert case.textbook.endswith(".")
    assert CASES[False, True].textbook in a_plan().reasons


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(DataError, match="no training pictures"):
        a_plan(num_train=0)


def test_every_signal_has_its_distance_to_the_boundary():
    distance, pictures, smallest = a_plan("different", "large", num_train=2_500, smallest=30).signals
    assert distance.margin == pytest.approx(0.286 - 0.09)
    assert pictures.margin == 500
    assert smallest.margin == 20


def test_a_plan_names_the_three_strategies_not_taken_and_why():
    for similarity in DISTANCES:
        for size in ("small", "large"):
            plan = a_plan(similarity, size)
            assert len({plan.strategy, *(item.strategy for item in plan.alternatives)}) == 4
            assert all(item.why_not for item in plan.alternatives)


def test_the_same_input_gives_the_same_plan():
    assert a_plan("different") == a_plan("different")


def test_a_case_can_be_chosen_and_the_plan_says_by_whom():
    plan = a_plan("similar", "small", wishes=Wishes(case=4, by="ada"))
    assert (plan.case, plan.strategy, plan.textbook) == (4, "fine-tune-or-scratch", "head-on-top")
    assert plan.changes == (Change("case", "4", "1", "ada"),)
    assert "ada chose case 4 instead of 1." in plan.reasons


def test_a_strategy_can_be_chosen_within_the_case():
    plan = a_plan("different", "small", wishes=Wishes(strategy="head-on-top", by="ada"))
    assert (plan.case, plan.strategy, plan.taps) == (2, "head-on-top", ("top",))
    assert plan.changes == (Change("strategy", "head-on-top", "head-on-evidence", "ada"),)


def test_a_wish_that_the_rule_grants_anyway_is_kept():
    plan = a_plan("similar", "small", wishes=Wishes(case=1, by="ada"))
    assert (plan.case, plan.taps) == (1, ("top",))
    assert "ada chose case 1, as the rule does." in plan.reasons
    plan = a_plan("similar", "small", wishes=Wishes(strategy="head-on-top", by="ada"))
    assert plan.taps == ("top",)  # no other one is even looked at
    assert "ada chose strategy head-on-top, as the rule does." in plan.reasons


def test_an_unknown_case_is_refused():
    with pytest.raises(UsageError, match="There is no case 5"):
        a_plan(wishes=Wishes(case=5))


# ── labels that do not exclude each other ────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize(("similarity", "strategy"), [("similar", "head-on-top"), ("different", "head-on-evidence")])
def test_labels_that_do_not_exclude_each_other_get_a_head_whatever_the_case(similarity, size, strategy):
    measured = a_similarity(similarity), Size(9000, 10, 100, size)
    plan = plan_case(*measured, "a_backbone", TAPS, exclusive=False)
    assert plan.strategy == strategy
    assert plan.case == plan_case(*measured, "a_backbone", TAPS).case
    assert "fine-tuning is not offered for that yet" in plan.reasons[-1]
    assert "not offered" in next(item.why_not for item in plan.alternatives if item.strategy == "fine-tune")


def test_fine_tuning_cannot_be_wished_for_labels_that_do_not_exclude_each_other():
    large, wish = Size(9000, 10, 100, "large"), Wishes(strategy="fine-tune")
    with pytest.raises(UsageError, match="head-on-evidence instead of fine-tune"):
        plan_case(a_similarity(), large, "a_backbone", TAPS, wish, exclusive=False)


def test_size_counts_pictures_and_the_smallest_class_their_labels():
    size = measure_size([0] * 900 + [1] * 12, 2, "similar", num_pictures=1000)
    assert (size.num_train, size.smallest_class) == (1000, 12)


def test_even_classes_are_as_many_as_they_are():
    assert measure_size([0, 1, 2, 3] * 10, 4, "similar").effective_classes == pytest.approx(4)


def test_uneven_classes_are_fewer_and_the_plan_says_so():
    size = measure_size([0] * 850 + [1] * 100 + [2] * 50, 3, "different")
    assert size.effective_classes == pytest.approx(
        np.exp(0.85 * -np.log(0.85) - 0.1 * np.log(0.1) - 0.05 * np.log(0.05))
    )
    plan = plan_case(a_similarity("different"), size, "a_backbone", TAPS)
    assert plan.reasons[2].startswith(
        "Imbalanced: the 3 classes carry as much information as 1.7 classes of equal size"
    )


def test_a_class_without_pictures_adds_no_variety():
    assert measure_size([0, 1] * 10, 3, "similar").effective_classes == pytest.approx(2)
