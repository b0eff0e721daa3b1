"""Tables as input, and labels that do not exclude each other: through all real steps."""

import csv
import io
import json
import shutil
from types import SimpleNamespace

import pytest

from flows.finetuning import job as finetuning
from flows.maintenance import listing
from flows.onboarding.refresh import refresh
from flows.requests import FinetuneRequest, OnboardRequest, RefreshRequest
from pipeline.errors import UsageError
from storage.datasets.manifests import read_manifest
from storage.workspace import Workspace
from tests import factories

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def tagged(first_run, tmp_path_factory):
    """A table of 60 pictures with up to three labels each, onboarded: `table`, `workspace`, `document`, `manifest`."""
    root = tmp_path_factory.mktemp("tagged")
    table, workspace = factories.write_table(root / "patches.csv"), root / "workspace"
    shutil.copytree(first_run.workspace / "engines", workspace / "engines")
    factories.age(root)
    document = factories.onboard(OnboardRequest(str(table), str(workspace)))
    manifest = read_manifest(Workspace.open(workspace), "patches")
    return SimpleNamespace(table=table, workspace=workspace, document=document, manifest=manifest)


@pytest.fixture
def record(tagged):
    return listing.show_model(Workspace.open(tagged.workspace), "patches")[0]


def test_a_table_with_several_labels_becomes_a_model_that_finds_them(tagged, record):
    document = tagged.document
    assert (document["dataset"], tagged.manifest.exclusive) == ("patches", False)
    assert tagged.manifest.root == str(tagged.table.parent)
    assert document["metrics"]["mean_average_precision"] > 0.9
    assert document["certificate"]["passed"]
    assert len(record["head"]["thresholds"]) == 3
    assert [row["threshold"] for row in record["metrics"]["per_class"]] == record["head"]["thresholds"]


def test_a_second_onboarding_finds_the_model(tagged):
    again = factories.onboard(OnboardRequest(str(tagged.table), str(tagged.workspace)))
    assert again["model"] == tagged.document["model"]


def test_predictions_of_the_test_split_are_the_metrics_of_the_record(headstart, tagged, record):
    tested = tagged.manifest.of_split("test")
    paths = [tagged.table.parent / image.path for image in tested]
    found = headstart("predict", "patches", *paths, "--jsonl", "--workspace", tagged.workspace)
    given = [json.loads(line)["labels"] for line in found.stdout.splitlines()]
    thresholds = dict(zip(tagged.manifest.classes, record["head"]["thresholds"], strict=True))
    assert all(value >= thresholds[name] for labels in given for name, value in labels)
    truth = [{tagged.manifest.classes[label] for label in image.labels} for image in tested]
    right = [{name for name, _ in labels} == wanted for labels, wanted in zip(given, truth, strict=True)]
    assert sum(right) / len(right) == record["metrics"]["subset_accuracy"]


def test_predictions_as_csv_join_the_labels_as_tables_do(headstart, tagged):
    image = next(image for image in tagged.manifest.images if len(image.labels) > 1)
    bare = next(image for image in tagged.manifest.images if not image.labels)
    paths = [tagged.table, *(tagged.table.parent / one.path for one in (image, bare))]
    found = headstart("predict", "patches", *paths, "--csv", "--workspace", tagged.workspace)
    failed, several, none = csv.DictReader(io.StringIO(found.stdout))
    assert (found.code, failed["labels"], bool(failed["error"])) == (3, "", True)
    assert set(several["labels"].split("|")) == {tagged.manifest.classes[label] for label in image.labels}
    assert len(several["probabilities"].split("|")) == len(image.labels)
    assert (none["labels"], none["probabilities"], none["error"]) == ("", "", "")


def test_the_terminal_shows_labels_and_map(headstart, tagged):
    where = ("--workspace", tagged.workspace)
    assert "mAP" in headstart("onboard", tagged.table, *where).stdout
    assert "0.9" in headstart("models", *where).stdout or "1.0" in headstart("models", *where).stdout
    image = next(image for image in tagged.manifest.images if len(image.labels) == 1)
    shown = headstart("predict", "patches", tagged.table.parent / image.path, *where).stdout
    assert tagged.manifest.classes[image.labels[0]] in shown


def test_models_are_listed_with_the_figure_they_have(tagged, first_run):
    (row,) = listing.list_models(Workspace.open(tagged.workspace))
    assert row.accuracy is None
    assert row.mAP == round(tagged.document["metrics"]["mean_average_precision"], 4)
    assert all(row.mAP is None and row.accuracy for row in listing.list_models(Workspace.open(first_run.workspace)))


def test_fine_tuning_is_refused_with_a_reason(tagged):
    with pytest.raises(UsageError, match="do not exclude each other"):
        finetuning.get_job_plan(FinetuneRequest("patches", str(tagged.workspace)))


def test_a_pack_of_a_table_holds_a_mark_a_label(tagged, tmp_path):
    from storage.features.packs import open_pack

    factories.extract_only(OnboardRequest(str(tagged.table), str(tagged.workspace)), pack=str(tmp_path / "pack.h5"))
    pack = open_pack(tmp_path / "pack.h5")
    wanted = [[int(label in image.labels) for label in range(3)] for image in tagged.manifest.images]
    assert pack.labels.tolist() == wanted


def test_views_are_trained_on_and_held_out_with_their_originals(tagged):
    document = factories.onboard(OnboardRequest(str(tagged.table), str(tagged.workspace), name="viewed", views=1))
    assert any("augmented views" in reason for reason in document["reasons"])


def test_a_table_that_says_what_the_folders_say_finds_their_model(again):
    rows = [f"{path.relative_to(again.folder)},{path.parent.name}" for path in sorted(again.folder.rglob("*.*"))]
    table = again.folder / "shapes.csv"
    table.write_text("\n".join(["path,label", *rows, "gone.png,class0"]))
    document = factories.onboard(OnboardRequest(str(table), str(again.workspace), name="shapes"))
    assert document["model"]["version"] == again.document["model"]["version"]
    assert [item["reason"] for item in document["rejected"]] == ["no such file"]


def test_a_wrong_table_is_invalid_data_and_a_missing_one_not_found(headstart, tmp_path, workspace):
    (tmp_path / "bad.csv").write_text("path,label\na.jpg,\n")
    found = headstart("onboard", tmp_path / "bad.csv", "--workspace", workspace)
    assert (found.code, "line 2: no label" in found.stderr) == (3, True)
    assert headstart("plan", tmp_path / "new.csv", "--workspace", workspace).code == 4


def test_labels_that_do_not_exclude_each_other_are_refreshed_and_compared(tagged, tmp_path):
    shutil.copytree(tagged.table.parent, tmp_path / "patches")
    table, workspace = tmp_path / "patches" / "patches.csv", tmp_path / "patches" / "workspace"
    factories.onboard(OnboardRequest(str(table), str(workspace), "patches"))
    factories.write_table(table, num_pictures=70)
    (row,) = refresh(RefreshRequest(str(workspace), ("patches",))).datasets
    manifest = read_manifest(Workspace.open(workspace), "patches")
    assert (row.retrained, row.num_computed) == (True, 10)
    assert row.gate["num_images"] == len(manifest.of_split("train"))
    assert row.version == (2 if row.gate["passed"] else 1)
    assert row.gate["challenger_accuracy"] > 0.5
