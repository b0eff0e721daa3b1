import json

import pytest

from pipeline.backbones.table import BACKBONES, DEFAULT_BACKBONE, get_backbone
from pipeline.decision import thresholds
from pipeline.decision.nouns import Reference, Similarity
from pipeline.decision.thresholds import FILE, FORMAT, VERSION, find_thresholds, nearest_references, read_thresholds
from pipeline.errors import DamagedError

DOCUMENT = json.loads(FILE.read_text())
MEASURED = list(DOCUMENT["backbones"])


def test_the_file_says_what_it_is_and_how_it_was_made():
    assert (DOCUMENT["format"], DOCUMENT["version"]) == (FORMAT, VERSION)
    assert DOCUMENT["made_by"].startswith("python -m tests.benchmarks.thresholds")
    assert DOCUMENT["rule"]


def test_every_embedded_backbone_has_thresholds_of_its_own_weights():
    assert set(MEASURED) == set(BACKBONES)
    for spec in BACKBONES.values():
        assert find_thresholds(spec) == read_thresholds()[spec.name]


@pytest.mark.parametrize("name", MEASURED)
def test_similar_and_different_sets_are_on_their_own_sides(name):
    part = DOCUMENT["backbones"][name]
    rows = part["references"].values()
    assert max(row["mean"] for row in rows if row["kind"] == "similar") < part["similar_below"]
    assert part["similar_below"] < part["different_above"]
    assert part["different_above"] < min(row["mean"] for row in rows if row["kind"] == "different")


@pytest.mark.parametrize("name", MEASURED)
def test_limits_follow_from_the_reference_sets_by_the_stated_rule(name):
    part = DOCUMENT["backbones"][name]
    rows = part["references"].values()
    far = max(row["mean"] for row in rows if row["kind"] == "similar")
    near = min(row["mean"] for row in rows if row["kind"] == "different")
    assert part["similar_below"] == round(far * (near / far) ** 0.25, 2)
    assert part["different_above"] == round(far * (near / far) ** 0.75, 2)


@pytest.mark.parametrize("name", MEASURED)
def test_what_a_backbone_was_trained_on_is_similar_from_25_pictures_on(name):
    part = DOCUMENT["backbones"][name]
    assert all(row["mean"] + 3 * row["deviation"] < part["similar_below"] for row in part["null"].values())


def test_the_default_limits_are_those_of_the_embedded_backbone():
    known = read_thresholds()[DEFAULT_BACKBONE]
    similarity = Similarity(0.1, 0.1, 0.1, 0.1, 100, "different")
    assert similarity.limits == (known.similar_below, known.different_above)
    assert similarity.measured_with == DEFAULT_BACKBONE


def test_other_weights_have_no_thresholds():
    from dataclasses import replace

    assert find_thresholds(replace(get_backbone(DEFAULT_BACKBONE), weights_sha256="0" * 64)) is None
    assert find_thresholds(replace(get_backbone(DEFAULT_BACKBONE), name="resnet50")) is None


def test_the_nearest_references_lie_on_both_sides():
    known = thresholds.Thresholds("", 0.05, 0.09, tuple(Reference(str(place), place / 10) for place in range(1, 7)))
    names = [[row.name for row in nearest_references(known, distance)] for distance in (0.0, 0.35, 9.0)]
    assert names == [["1", "2"], ["2", "3", "4", "5"], ["5", "6"]]


@pytest.mark.parametrize("content", ["{", "{}", '{"format": "headstart.thresholds", "version": 9, "backbones": {}}'])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path, monkeypatch, content):
    file = tmp_path / "thresholds.json"
    file.write_text(content)
    monkeypatch.setattr(thresholds, "FILE", file)
    with pytest.raises(DamagedError, match=r"thresholds\.json"):
        read_thresholds.__wrapped__()
