import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.decision.nouns import Drift, RankedBackbone, Reference, Similarity, Size
from pipeline.decision.plan import Wishes, plan_case
from pipeline.decision.quote import Rates, Work, plan_quote
from pipeline.errors import DamagedError
from pipeline.evaluation.labels import evaluate_labels
from pipeline.jsonable import from_json
from pipeline.report.record import ModelRecord, parse_plan, plan_part
from pipeline.types import LearningCurve, Tap
from tests import factories

TAPS = (Tap("stage5_grid", "block5", "grid", 1008, 0), Tap("top", "top_activation", "gap", 1280, 1))
DIFFERENT = Similarity(0.286, 0.3, 0.2, 0.4, 104, "different")
SIZE = Size(1000, 10, 90, "small")


def through_json(record):
    return ModelRecord.from_json(json.loads(json.dumps(record.to_json())))


def test_a_head_is_the_same_after_json():
    quote = plan_quote(Work(10, 10, 10, 2, 224, 100, TAPS), Rates())
    plan = replace(plan_case(DIFFERENT, SIZE, "a_backbone", TAPS), quote=quote)
    curve = LearningCurve("More pictures pay.", (4, 8), (0.2, 0.1), 0.05, 0.2, 0.02, (0.01, 0.03), "data-limited")
    scored = {
        "minutes": {"predicted": 2.0, "actual": 3.0, "ratio": 1.5},
        "disk (GB)": {"predicted": 0.0, "ratio": None},
    }
    record = factories.a_record(plan=plan, rejected=[factories.a_rejected("a\udcff.jpg")], learning_curve=curve)
    record = replace(record, quote_scored=scored, name="pets", model_version=2, files={"model.keras": "ab" * 32})
    assert through_json(record) == record
    assert (record.kind, record.is_network) == ("head", False)


def test_a_fine_tuned_network_is_the_same_after_json():
    record = factories.a_record(finetune=factories.a_finetuning())
    assert through_json(record) == record
    assert (record.kind, record.is_network) == ("fine-tuned network", True)
    raced = replace(record, finetune=factories.a_finetuning(arm="scratch", scratch=factories.a_scratch_report()))
    assert through_json(raced) == raced
    assert raced.kind == "network from random weights"


def test_a_model_of_labels_that_do_not_exclude_each_other_is_the_same_after_json():
    scores = np.asarray([[0.9, 0.2], [0.1, 0.8], [0.7, 0.6]])
    marks = np.asarray([[1, 0], [0, 1], [1, 1]], dtype=bool)
    metrics = evaluate_labels(marks, scores, ("cats", "dogs"), (0.5, 0.5), "test")
    head = replace(factories.a_head(num_classes=2), activation="sigmoid", thresholds=(0.5, 0.5))
    record = factories.a_record(factories.a_manifest(exclusive=False), head=head, metrics=metrics)
    assert through_json(record) == record


def test_the_document_of_a_head_has_no_key_for_a_fine_tuning():
    assert not {"finetune", "learning_curve", "quote_scored"} & factories.a_record().to_json().keys()
    assert "finetune" in factories.a_record(finetune=factories.a_finetuning()).to_json()


@pytest.mark.parametrize("key", ["plan", "similarity", "head", "metrics", "data", "certificate", "files"])
def test_a_damaged_record_is_named_by_its_place(key):
    document = factories.a_record().to_json()
    with pytest.raises(DamagedError, match=r"damaged|no plan"):
        ModelRecord.from_json({**document, key: 3})


def test_a_plan_is_the_same_after_json():
    plan = plan_case(DIFFERENT, SIZE, "a_backbone", TAPS, Wishes(case=4, by="ada"))
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
    ranking = (RankedBackbone("a_backbone", 0.2, 0.7), RankedBackbone("slow", why_not="no time was left"))
    plan = replace(plan_case(measured, SIZE, "a_backbone", TAPS), backbones=ranking)
    part = plan_part(plan)
    assert part == json.loads(json.dumps(part))
    assert part["similarity"]["thresholds"] == {"similar": 0.06, "different": 0.1}
    assert parse_plan(part) == plan


def test_a_record_from_before_intervals_is_read():
    part = {"distance": 0.1, "early": 0.1, "middle": 0.1, "late": 0.1, "num_images": 104, "verdict": "different"}
    found = from_json(Similarity, {**part, "thresholds": {"similar": 0.05, "different": 0.09}})
    assert found == Similarity(0.1, 0.1, 0.1, 0.1, 104, "different")


def test_the_record_says_how_far_every_signal_is_from_its_boundary():
    plan = plan_case(DIFFERENT, SIZE, "a_backbone", TAPS)
    assert [row["margin"] for row in plan_part(plan)["signals"]] == [0.286 - 0.09, -1000, 80]
