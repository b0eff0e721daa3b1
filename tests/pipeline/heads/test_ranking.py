import numpy as np
import pytest

from pipeline.decision.nouns import RankedBackbone
from pipeline.heads.labels import to_truth
from pipeline.heads.ranking import describe_ranking, rank_backbones, score_backbone
from pipeline.heads.ridge import fit_ridge
from tests.factories import a_tap


def features(labels, signal, dim=24, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (max(labels) + 1, dim))
    return (signal * centres[labels] + rng.normal(0, 1, (len(labels), dim))).astype(np.float32)


LABELS = [row % 3 for row in range(90)]
SINGLE = [(label,) for label in LABELS]


def score(signal, labels=SINGLE, name="net"):
    return score_backbone(name, {"top": features(LABELS, signal)}, [a_tap(dim=24)], to_truth(labels, 3, exclusive=True))


def test_features_that_tell_classes_apart_have_less_error_and_more_evidence():
    clear, dim = score(3.0), score(0.3)
    assert clear.error < 0.2 < dim.error
    assert clear.logme > dim.logme


def test_the_error_is_the_one_of_the_head_that_would_be_fitted():
    found = score(1.0)
    targets = np.eye(3)[LABELS]
    fit = fit_ridge(features(LABELS, 1.0), "gap", targets, np.ones(90, dtype=bool))
    assert found.error == pytest.approx(np.square(targets - fit.loo_scores).sum(axis=1).mean())
    assert found.logme == pytest.approx(fit.logme)


def test_a_useless_tap_beside_a_good_one_costs_nothing():
    taps = [a_tap("noise", dim=24), a_tap(dim=24)]
    both = {"top": features(LABELS, 2.0), "noise": features(LABELS, 0.0, seed=1)}
    assert score_backbone("net", both, taps, to_truth(SINGLE, 3, exclusive=True)).error <= score(2.0).error + 1e-9


def test_a_picture_alone_in_its_class_does_not_count():
    lonely = [*SINGLE[:-1], (2,)]
    rows = features(LABELS, 3.0)
    more = score_backbone("net", {"top": rows}, [a_tap(dim=24)], to_truth([*lonely[:-1], (3,)], 4, exclusive=True))
    assert more.error == pytest.approx(score(3.0).error, abs=0.05)


def test_labels_that_do_not_exclude_each_other_are_scored_too():
    several = [(label, 3) if row % 2 else (label,) for row, label in enumerate(LABELS)]
    truth = to_truth(several, 4, exclusive=False)
    found = score_backbone("net", {"top": features(LABELS, 3.0)}, [a_tap(dim=24)], truth)
    assert 0 < found.error < 1


def test_the_least_error_is_first_and_what_was_not_tried_last():
    slow = RankedBackbone("slow", why_not="no time was left")
    ranking = rank_backbones([slow, RankedBackbone("b", 0.3, 1.0), RankedBackbone("a", 0.2, 0.9)])
    assert [row.backbone for row in ranking] == ["a", "b", "slow"]
    assert describe_ranking(ranking) == (
        "Of the installed backbones, the best on a sample is a (leave-one-out squared error 0.2000 per picture, log "
        "evidence 0.900), compared with b (leave-one-out squared error 0.3000 per picture, log evidence 1.000). "
        "Not tried: slow (no time was left)."
    )


def test_among_equals_the_first_tried_wins():
    rows = [RankedBackbone("cheap", 0.2, 1.0), RankedBackbone("costly", 0.2, 1.0)]
    assert rank_backbones(rows)[0].backbone == "cheap"
