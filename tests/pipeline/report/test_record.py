import json
from dataclasses import replace

import pytest

from pipeline.decision.nouns import Drift, RankedBackbone, Reference, Similarity, Size
from pipeline.decision.plan import Wishes, plan_case
from pipeline.errors import DamagedError
from pipeline.report.record import parse_plan, parse_similarity, plan_part
from pipeline.types import Tap


def test_a_plan_read_back_from_its_record_is_the_same_plan():
    similarity = Similarity(0.286, 0.3, 0.2, 0.4, 104, "different")
    taps = (Tap("stage5_grid", "block5", "grid", 1008, 0), Tap("top", "top_activation", "gap", 1280, 1))
    plan = plan_case(similarity, Size(1000, 10, 90, "small"), "a_backbone", taps, Wishes(case=4, by="ada"))
    assert parse_plan(json.loads(json.dumps(plan_part(plan)))) == plan


def test_all_that_was_measured_of_similarity_and_backbones_is_read_back():
    drift = Drift("resnet50", 0.2, 0.1, 0.2, 0.3, (0.18, 0.22))
    measured = Similarity(
        0.04,
        0.02,
        0.04,
        0.06,
        104,
        "similar",
        (0.03, 0.05),
        (0.06, 0.1),
        "lite",
        "why",
        (Reference("known", 0.03),),
        drift,
    )
    taps = (Tap("top", "top", "gap", 8, 0),)
    ranking = (RankedBackbone("a_backbone", 0.2, 0.7), RankedBackbone("slow", why_not="no time was left"))
    plan = replace(plan_case(measured, Size(1000, 10, 90, "small"), "a_backbone", taps), backbones=ranking)
    part = plan_part(plan)
    assert part == json.loads(json.dumps(part))
    assert part["similarity"]["thresholds"] == {"similar": 0.06, "different": 0.1}
    assert parse_plan(part) == plan


def test_a_record_from_before_intervals_is_read():
    part = {"distance": 0.1, "early": 0.1, "middle": 0.1, "late": 0.1, "num_images": 104, "verdict": "different"}
    found = parse_similarity({**part, "thresholds": {"similar": 0.05, "different": 0.09}})
    assert found == Similarity(0.1, 0.1, 0.1, 0.1, 104, "different")
    with pytest.raises(DamagedError, match="no similarity"):
        parse_similarity({**part, "colour": "red"})


def test_the_record_says_how_far_every_signal_is_from_its_boundary():
    similarity = Similarity(0.286, 0.3, 0.2, 0.4, 104, "different")
    plan = plan_case(similarity, Size(1000, 10, 90, "small"), "a_backbone", (Tap("top", "top", "gap", 8, 0),))
    assert [row["margin"] for row in plan_part(plan)["signals"]] == [0.286 - 0.09, -1000, 80]
