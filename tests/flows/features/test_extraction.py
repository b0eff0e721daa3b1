"""Filling the store without training, and what else than the default can be asked for."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from flows.features import extraction
from flows.features.backbone import describe_backbone, engine_id
from flows.requests import OnboardRequest
from pipeline.backbones.table import DEFAULT_BACKBONE, get_backbone
from pipeline.errors import ConflictError, NotFoundError, UnknownNameError, UsageError
from pipeline.types import DECODERS
from storage.datasets.manifests import read_manifest
from storage.features.packs import open_pack
from storage.features.writer import FeatureWriter
from storage.models.serving import get_model
from storage.workspace import Workspace
from tests import factories

pytestmark = pytest.mark.heavy


def request(place, **options):
    return OnboardRequest(str(place.folder), str(place.workspace), "shapes", **options)


def counts(document):
    return tuple(document["features"][name] for name in ("num_images", "num_computed", "num_reused"))


def test_what_extract_computed_onboard_finds(tiny_dataset, warm_workspace):
    asked = OnboardRequest(str(tiny_dataset()), str(warm_workspace))
    assert counts(factories.extract_only(asked)) == (24, 24, 0)
    assert counts(factories.onboard(asked)) == (24, 0, 24)


def test_a_pack_has_everything_that_training_reads(again, tmp_path):
    path = tmp_path / "shapes.h5"
    document = factories.extract_only(request(again), pack=str(path))
    assert document["pack"] == str(path)
    images = read_manifest(Workspace.open(again.workspace), "shapes").images
    with h5py.File(path) as file:
        assert [bytes(key) for key in file["key"][:]] == [image.digest for image in images]
        assert file["label"][:].tolist() == [image.label for image in images]
        top = file["features/top"][:]
    store = FeatureWriter(Workspace.open(again.workspace), get_backbone(DEFAULT_BACKBONE).space())
    np.testing.assert_array_equal(top.astype(np.float32), store.read([image.digest for image in images], "top"))
    assert [bytes(split).decode() for split in open_pack(path).splits] == [image.split for image in images]


def test_a_pack_never_overwrites_a_file(again, tmp_path):
    path = tmp_path / "thesis.h5"
    path.write_text("years of work")
    with pytest.raises(ConflictError, match="not overwritten"):
        factories.extract_only(request(again), pack=str(path))
    assert path.read_text() == "years of work"


def test_parts_cover_what_is_missing_and_nothing_else(tiny_dataset, warm_workspace):
    asked = OnboardRequest(str(tiny_dataset()), str(warm_workspace))
    spec = get_backbone(DEFAULT_BACKBONE)
    workspace, dataset = Workspace.open(warm_workspace), factories.scan(asked)
    parts = extraction.plan_parts(workspace, dataset, spec, 0, part_rows=10)
    assert [(part.start, part.stop) for part in parts] == [(0, 10), (10, 20), (20, 24)]

    done = extraction.extract_part(workspace, dataset, spec, parts[1])
    assert done.num_computed == 10
    assert extraction.plan_parts(workspace, dataset, spec, 0, part_rows=10) == [parts[0], parts[2]]
    assert extraction.extract_part(workspace, dataset, spec, parts[1]).num_computed == 0


def test_views_of_training_pictures_are_computed_once_each(again):
    num_train = again.document["size"]["num_train"]
    first = factories.onboard(request(again, views=2))
    assert counts(first) == (24, 2 * num_train, 24)
    assert counts(factories.onboard(request(again, views=1))) == (24, 0, 24 + num_train)
    assert counts(factories.onboard(request(again, views=3))) == (24, num_train, 24 + 2 * num_train)
    assert counts(factories.onboard(request(again))) == (24, 0, 24)


def test_a_model_knows_the_views_it_was_offered(again):
    with_views = factories.onboard(request(again, views=1))
    assert with_views["model"]["version"] == 2
    assert get_model(Workspace.open(again.workspace), "shapes@2").record.features.num_views == 1
    assert factories.onboard(request(again, views=1))["model"]["version"] == 2
    assert with_views["metrics"]["num_images"] == again.document["metrics"]["num_images"]


def test_another_recipe_is_another_space_and_another_model(again):
    scaled = factories.onboard(request(again, recipe="scaled"))
    assert counts(scaled) == (24, 24, 0)
    assert scaled["features"]["space"] != again.document["features"]["space"]
    assert get_model(Workspace.open(again.workspace), "shapes").record.recipe.decoder == DECODERS["scaled"]
    assert factories.onboard(request(again))["model"]["version"] == 1


def test_any_network_of_keras_can_be_the_backbone(again, headstart):
    document = factories.onboard(request(again, backbone="mobilenet_v3_small", weights="none"))
    assert counts(document) == (24, 24, 0)
    assert document["features"]["backbone"] == "mobilenet_v3_small"
    assert document["certificate"]["passed"]
    similarity = document["similarity"]
    assert similarity["distance"] == again.document["similarity"]["distance"]
    assert (similarity["measured_with"], similarity["own"]) == (DEFAULT_BACKBONE, None)
    assert any(f"measured with {DEFAULT_BACKBONE}" in reason for reason in document["reasons"])

    options = ("--backbone", "mobilenet_v3_small", "--weights", "none", "--name", "shapes", "--json")
    found = headstart("onboard", again.folder, "--workspace", again.workspace, *options)
    assert json.loads(found.stdout)["model"] == document["model"]
    assert "tensorflow" not in found.loaded


def test_a_smaller_square_is_another_space_with_a_model_of_its_own(again, headstart):
    at_96 = ("onboard", again.folder, "--name", "shapes", "--size", "96", "--json", "--workspace", again.workspace)
    document = json.loads(headstart(*at_96).stdout)
    assert counts(document) == (24, 24, 0)
    assert document["certificate"]["passed"]
    assert document["metrics"]["accuracy"] == 1.0
    # similarity is measured at the network's own size, and was before
    assert document["similarity"] == again.document["similarity"]
    assert not any("calibrated" in reason for reason in document["reasons"])
    record = get_model(Workspace.open(again.workspace), "shapes").record
    assert (record.model_version, record.recipe.size) == (2, 96)

    found = headstart(*at_96)
    assert json.loads(found.stdout)["model"] == document["model"]
    assert "tensorflow" not in found.loaded
    assert factories.onboard(request(again))["model"]["version"] == 1
    assert factories.onboard(request(again, size=224))["model"]["version"] == 1


def test_a_model_of_a_smaller_square_predicts_and_its_features_are_looked_after(again, headstart):
    place = ("--workspace", again.workspace)
    factories.onboard(request(again, size=96))
    tested = read_manifest(Workspace.open(again.workspace), "shapes").of_split("test")
    found = headstart("predict", "shapes", *(again.folder / image.path for image in tested), "--jsonl", *place)
    labels = [json.loads(line)["label"] for line in found.stdout.splitlines()]
    assert labels == [f"class{image.label}" for image in tested]

    sizes = json.loads(headstart("features", "--json", *place).stdout)["features"]
    assert {(row["size"], row["num_images"]) for row in sizes} >= {(96, 24), (224, 24)}
    verified = json.loads(headstart("verify", "--recompute", "1000", "--json", *place).stdout)
    assert verified["findings"] == []
    assert get_backbone(DEFAULT_BACKBONE, 96).space().id in {row["space"] for row in verified["recomputed"]["taps"]}
    garbage = json.loads(headstart("gc", "--grace", "0s", "--json", *place).stdout)["garbage"]
    engines = {engine_id(get_backbone(DEFAULT_BACKBONE, size)) for size in (96, 224)}
    assert not engines & {item["path"].rpartition("/")[2] for item in garbage}


def test_a_network_of_keras_is_described_once_for_each_size(workspace, monkeypatch):
    described = []

    def describe(name, weights, size):
        described.append(size)
        return replace(get_backbone(DEFAULT_BACKBONE, size), name=name, source="none", moments=None)

    monkeypatch.setattr("pipeline.backbones.applications.describe_application", describe)
    opened = Workspace.open(workspace)

    def size_found(size):
        return describe_backbone(opened, "mobilenet_v3_small", "none", DECODERS["exact"], size).recipe.size

    assert [size_found(size) for size in (96, 96, None, 224, 128, 96)] == [96, 96, 224, 224, 128, 96]
    assert described == [96, None, 128]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": DEFAULT_BACKBONE, "weights": None, "size": 100}, UsageError),
        ({"name": "resnet51", "weights": None}, UnknownNameError),
        ({"name": DEFAULT_BACKBONE, "weights": "none"}, UsageError),
        ({"name": "resnet50", "weights": "no/such/file.weights.h5"}, NotFoundError),
    ],
)
def test_a_backbone_that_cannot_be_had_is_one_sentence(workspace, options, error):
    with pytest.raises(error):
        describe_backbone(Workspace.open(workspace), decoder=DECODERS["exact"], **options)
