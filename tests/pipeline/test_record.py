import json

from pipeline.plan import Wishes, plan_case
from pipeline.record import parse_plan, plan_part
from pipeline.types import Similarity, Size, Tap


def test_a_plan_read_back_from_its_record_is_the_same_plan():
    similarity = Similarity(0.286, 0.3, 0.2, 0.4, 104, "different")
    taps = (Tap("stage5_grid", "block5", "grid", 1008, 0), Tap("top", "top_activation", "gap", 1280, 1))
    plan = plan_case(similarity, Size(1000, 10, 90, "small"), "a_backbone", taps, Wishes(case=4, by="ada"))
    assert parse_plan(json.loads(json.dumps(plan_part(plan)))) == plan


def test_the_record_says_how_far_every_signal_is_from_its_boundary():
    similarity = Similarity(0.286, 0.3, 0.2, 0.4, 104, "different")
    plan = plan_case(similarity, Size(1000, 10, 90, "small"), "a_backbone", (Tap("top", "top", "gap", 8, 0),))
    assert [row["margin"] for row in plan_part(plan)["signals"]] == [0.286 - 0.09, -1000, 80]
