import json
import os
import shutil
import time
from collections import Counter

import pytest

from flows.onboarding.story import find_request
from flows.requests import OnboardRequest
from pipeline.backbones.table import DEFAULT_BACKBONE, get_backbone
from pipeline.errors import DamagedError, DataError
from pipeline.images import ahead
from pipeline.images.decode import read_picture
from storage.datasets import manifests
from storage.datasets.manifests import read_manifest
from storage.datasets.registrations import write_registration
from storage.workspace import Workspace
from tests import factories

heavy = pytest.mark.heavy


def run(place, name="shapes", **options):
    """Onboard a copy of the first run's dataset into a copy of its workspace, where all its pictures are known."""
    return factories.onboard(OnboardRequest(str(place.folder), str(place.workspace), name, **options))


def counts(document):
    return tuple(document["features"][name] for name in ("num_images", "num_computed", "num_reused", "num_rejected"))


def version_of(document):
    return document["model"]["name"], document["model"]["version"]


# ── the first run ────────────────────────────────────────────────────────────────────────────────


@heavy
def test_the_first_run_computes_every_picture(first_run):
    assert counts(first_run.document) == (24, 24, 0, 0)


@heavy
def test_the_document_has_what_was_promised(first_run):
    document = json.loads(json.dumps(first_run.document))
    assert document["schema_version"] == 1
    assert document["dataset"] == "shapes"
    assert document["case"] in (1, 2, 3, 4)
    assert document["strategy"] in ("head-on-top", "head-on-evidence", "fine-tune", "fine-tune-or-scratch")
    promised = {
        "similarity": {"distance": float, "verdict": str, "num_images": int},
        "size": {"num_train": int, "num_classes": int, "smallest_class": int, "verdict": str},
        "features": {
            **dict.fromkeys(("num_images", "num_computed", "num_reused", "num_rejected"), int),
            "backbone": str,
            "taps": list,
        },
        "model": {"name": str, "version": int, "path": str},
        "metrics": {
            **dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece"), float),
            "accuracy_interval": list,
        },
        "seconds": {"total": float},
    }
    for part, fields in promised.items():
        for field, kind in fields.items():
            assert isinstance(document[part][field], kind), (part, field)
    assert document["reasons"]
    assert all(isinstance(reason, str) for reason in document["reasons"])


@heavy
def test_the_numbers_of_the_document_fit_each_other(first_run):
    document = first_run.document
    manifest = first_run.manifest
    assert document["size"]["num_train"] == len(manifest.of_split("train"))
    assert document["metrics"]["num_images"] == len(manifest.of_split("test"))
    assert document["similarity"]["num_images"] == len(manifest.of_split("train"))
    assert document["size"]["num_classes"] == 3
    low, high = document["metrics"]["accuracy_interval"]
    assert 0 <= low <= document["metrics"]["accuracy"] <= high <= 1
    assert document["features"]["taps"] == [tap.name for tap in get_backbone("efficientnet_lite0").taps]
    assert document["certificate"]["passed"]
    seconds = dict(document["seconds"])
    total = seconds.pop("total")
    assert {"scan", "measure", "extract", "train", "evaluate", "save", "certify"} <= set(seconds)
    assert sum(seconds.values()) <= total + 0.001 * len(seconds)


@heavy
def test_pictures_of_three_colours_are_told_apart(first_run):
    assert first_run.document["metrics"]["accuracy"] == 1.0


@heavy
def test_the_model_lies_where_the_document_says(first_run):
    model = first_run.document["model"]
    assert (model["name"], model["version"]) == ("shapes", 1)
    names = {path.name for path in (first_run.workspace / "models" / "shapes" / "1").iterdir()}
    assert names == {"model.keras", "classes.json", "recipe.json", "report.md", "record.json"}
    assert model["path"] == str(first_run.workspace / "models" / "shapes" / "1")


@heavy
def test_nothing_is_left_in_staging(first_run):
    assert list((first_run.workspace / "staging").iterdir()) == []


# ── what changes, and what it costs ──────────────────────────────────────────────────────────────


@heavy
def test_the_same_pictures_elsewhere_compute_nothing_and_find_their_model(first_run, again):
    found = run(again)
    assert counts(found) == (24, 0, 24, 0)
    assert version_of(found) == ("shapes", 1)
    same = ("case", "strategy", "similarity", "size", "metrics", "reasons", "certificate")
    assert all(found[part] == first_run.document[part] for part in same)


@heavy
def test_a_run_that_finds_everything_done_parses_the_manifest_once_and_opens_the_workspace_once(again, monkeypatch):
    run(again)
    parsed, probed = [], []
    check, probe = manifests.check_manifest, Workspace._prove_writable
    monkeypatch.setattr(manifests, "check_manifest", lambda *asked: (parsed.append(asked), check(*asked))[1])
    monkeypatch.setattr(Workspace, "_prove_writable", lambda opened: (probed.append(opened), probe(opened)))
    run(again)
    assert (len(parsed), len(probed)) == (1, 1)


@heavy
def test_reading_every_file_again_changes_nothing(again):
    assert version_of(run(again, rehash=True)) == ("shapes", 1)


@heavy
def test_renamed_files_compute_nothing_and_find_their_model(again):
    for path in sorted(again.folder.rglob("*.png")):
        path.rename(path.with_name(f"renamed {path.name}"))
    found = run(again)
    assert counts(found) == (24, 0, 24, 0)
    assert version_of(found) == ("shapes", 1)


@heavy
def test_a_second_copy_of_a_file_computes_nothing(again):
    shutil.copy(again.folder / "class0" / "001.png", again.folder / "class0" / "again.png")
    found = run(again)
    assert counts(found) == (24, 0, 24, 0)
    assert version_of(found) == ("shapes", 1)


@heavy
def test_a_file_that_is_no_picture_is_listed_and_does_not_stop_the_run(again):
    (again.folder / "class1" / "no picture.png").write_text("<html>404</html>")
    found = run(again)
    assert counts(found) == (24, 0, 24, 1)
    assert found["rejected"] == [
        {"path": "class1/no picture.png", "reason": "not a picture that can be read (an HTML page)"}
    ]
    assert version_of(found) == ("shapes", 1)


@heavy
def test_a_picture_that_ends_in_the_middle_is_listed_and_not_decoded_twice(again):
    whole = factories.encoded(factories.a_photo(900, (200, 200)))
    (again.folder / "class1" / "cut.png").write_bytes(whole[:2000])  # its header is good
    for _ in range(2):
        found = run(again)
        assert counts(found) == (24, 0, 24, 1)
        assert [item["path"] for item in found["rejected"]] == ["class1/cut.png"]
        assert "truncated" in found["rejected"][0]["reason"]
        assert version_of(found) == ("shapes", 1)


@heavy
def test_a_broken_picture_among_new_ones_costs_its_own_row_only(again):
    factories.write_photo(again.folder / "class1" / "new 1.png", 801, colour=factories.COLOURS[1])
    whole = factories.encoded(factories.a_photo(900, (200, 200)))
    (again.folder / "class1" / "new 2.png").write_bytes(whole[:2000])
    factories.write_photo(again.folder / "class1" / "new 3.png", 803, colour=factories.COLOURS[1])
    found = run(again)
    assert counts(found) == (26, 2, 24, 1)
    assert version_of(found) == ("shapes", 2)


@heavy
def test_a_picture_under_two_labels_is_noted(again):
    shutil.copy(again.folder / "class0" / "001.png", again.folder / "class1" / "wrong.png")
    found = run(again)
    assert counts(found) == (23, 0, 23, 0)
    assert found["notes"] == ["1 picture under two labels, left out: class0/001.png = class1/wrong.png."]
    assert version_of(found) == ("shapes", 2)


@heavy
def test_three_more_pictures_compute_three_and_move_nobody(first_run, again):
    for label in range(3):
        path = again.folder / f"class{label}" / "new.png"
        factories.write_photo(path, 700 + label, colour=factories.COLOURS[label])
    found = run(again)
    assert counts(found) == (27, 3, 24, 0)
    assert version_of(found) == ("shapes", 2)
    after = read_manifest(Workspace.open(again.workspace), "shapes")
    assert len(after.images) == 27
    assert set(first_run.manifest.images) < set(after.images)


@heavy
def test_a_picture_moved_to_another_class_computes_nothing_but_makes_a_new_model(again):
    (again.folder / "class0" / "001.png").rename(again.folder / "class1" / "moved.png")
    found = run(again)
    assert counts(found) == (24, 0, 24, 0)
    assert version_of(found) == ("shapes", 2)
    # and back again, the first model is the right one
    (again.folder / "class1" / "moved.png").rename(again.folder / "class0" / "001.png")
    assert version_of(run(again)) == ("shapes", 1)


@heavy
def test_damaged_features_are_computed_again(again):
    space = again.document["features"]["space"]
    shard = max(again.workspace.glob(f"spaces/{space}/??/*.h5"), key=lambda path: path.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[4096::64] = bytes(255 - value for value in data[4096::64])  # in the rows of every tap
    shard.unlink()  # a link to the first run's
    shard.write_bytes(data)
    (again.folder / "class0" / "001.png").rename(again.folder / "class1" / "moved.png")  # so that features are read
    found = run(again)
    assert counts(found) == (24, 24, 0, 0)
    assert found["certificate"]["passed"]


# ── steps alone ──────────────────────────────────────────────────────────────────────────────────


def test_a_dataset_is_named_by_its_folder_unless_told_otherwise(workspace, tiny_dataset):
    folder = str(tiny_dataset("My Shapes!"))
    assert factories.scan(OnboardRequest(folder, str(workspace))).name == "my-shapes"
    assert factories.scan(OnboardRequest(folder, str(workspace), "other")).name == "other"


def test_a_scan_finds_the_same_manifest_twice(workspace, tiny_dataset):
    request = OnboardRequest(str(tiny_dataset()), str(workspace))
    first = factories.scan(request)
    assert factories.scan(request) == first
    manifest = read_manifest(Workspace.open(workspace), first.name)
    assert (len(manifest.images), manifest.num_files, manifest.classes) == (24, 24, ("class0", "class1", "class2"))


def test_a_scan_through_a_link_or_a_relative_path_is_of_the_same_folder(workspace, tiny_dataset, tmp_path, monkeypatch):
    folder = tiny_dataset("shapes")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    roots = {factories.scan(OnboardRequest(path, str(workspace))).root for path in (str(folder), "link", "./shapes")}
    assert roots == {str(folder.resolve())}


def test_a_file_changed_in_place_is_noticed(workspace, tiny_dataset):
    folder = tiny_dataset()
    factories.age(folder)
    request = OnboardRequest(str(folder), str(workspace))
    before = factories.scan(request).fingerprint
    factories.write_photo(folder / "class0" / "001.png", 800)
    assert factories.scan(request).fingerprint != before


def test_a_file_that_cannot_be_read_once_is_read_the_next_time(workspace, tiny_dataset, monkeypatch):
    request = OnboardRequest(str(tiny_dataset()), str(workspace))

    def refuse(path):
        if path.name == "001.png" and path.parent.name == "class0":
            raise PermissionError(13, "Permission denied")
        return read_picture(path)

    with monkeypatch.context() as patch:
        patch.setattr(ahead, "read_picture", refuse)
        first = factories.scan(request)
    (rejected,) = read_manifest(Workspace.open(workspace), "shapes", first.fingerprint).rejected
    assert (rejected.path, "Permission denied" in rejected.reason) == ("class0/001.png", True)
    again = read_manifest(Workspace.open(workspace), "shapes", factories.scan(request).fingerprint)
    assert ("class0/001.png" in {image.path for image in again.images}, again.rejected) == (True, ())


def test_a_file_rewritten_in_the_clock_tick_of_its_scan_is_read_again(workspace, tiny_dataset, monkeypatch):
    folder = tiny_dataset()
    factories.age(folder)
    path = folder / "class0" / "001.png"
    status = path.stat()
    monkeypatch.setattr(time, "time_ns", lambda: status.st_mtime_ns)
    request = OnboardRequest(str(folder), str(workspace))
    before = factories.scan(request).fingerprint
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert factories.scan(request).fingerprint != before


@heavy
def test_extraction_names_a_picture_that_is_left_out_for_its_two_labels(headstart, again):
    shutil.copy(again.folder / "class0" / "001.png", again.folder / "class1" / "wrong.png")
    command = ("extract", again.folder, "--name", "shapes", "--workspace", again.workspace)
    note = "1 picture under two labels, left out: class0/001.png = class1/wrong.png."
    document = json.loads(headstart(*command, "--json").stdout)
    assert (document["notes"], document["schema_version"], counts(document)) == ([note], 1, (23, 0, 23, 0))
    assert f"note: {note}" in headstart(*command).stdout


@heavy
def test_a_plan_needs_no_features_and_trains_nothing(warm_workspace, tiny_dataset):
    document = factories.plan_only(OnboardRequest(str(tiny_dataset()), str(warm_workspace)))
    assert (document["size"]["num_classes"], document["size"]["verdict"]) == (3, "small")
    assert 2.5 < document["size"]["effective_classes"] <= 3
    assert document["quote"]["minutes"] > 0
    assert document["similarity"]["num_images"] == document["size"]["num_train"]
    train = read_manifest(Workspace.open(warm_workspace), "shapes").of_split("train")
    assert document["size"]["smallest_class"] == min(Counter(image.label for image in train).values())
    assert document["reasons"]
    assert not list(warm_workspace.glob("models/*"))
    assert not list(warm_workspace.glob(f"spaces/{get_backbone(DEFAULT_BACKBONE).space().id}/??/*.h5"))


@heavy
def test_pictures_that_all_turn_out_broken_are_an_error_of_the_data(warm_workspace, tmp_path):
    for number in range(12):
        path = factories.write_photo(tmp_path / "cut" / f"class{number % 2}" / f"{number}.png", number, (90, 90))
        path.write_bytes(path.read_bytes()[:3000])  # their headers are good
    with pytest.raises(DataError, match="None of"):
        factories.onboard(OnboardRequest(str(tmp_path / "cut"), str(warm_workspace)))


@heavy
def test_a_sample_that_grew_is_not_measured_again(again):
    spec = get_backbone(DEFAULT_BACKBONE)
    moments = again.workspace / "spaces" / spec.moment_space().id
    before = {path.name for path in moments.glob("??/*.h5")}
    (again.folder / "class0" / "001.png").rename(again.folder / "class1" / "moved.png")
    for path in again.workspace.glob("similarity/*.json"):
        path.unlink()  # so that it must be worked out anew, from stored moments
    assert run(again)["similarity"] == again.document["similarity"]
    assert {path.name for path in moments.glob("??/*.h5")} == before


@heavy
def test_a_dataset_that_was_onboarded_by_a_relative_path_is_known_from_every_folder(
    warm_workspace, tiny_dataset, monkeypatch
):
    folder = tiny_dataset()
    monkeypatch.chdir(folder.parent)
    factories.onboard(OnboardRequest(folder.name, str(warm_workspace), "shapes", size=64))
    monkeypatch.chdir("/")
    again = find_request(Workspace.open(warm_workspace), "shapes")
    assert (again.folder, again.size) == (str(folder), 64)
    assert factories.scan(again).name == "shapes"


def test_what_the_version_before_remembered_is_read(workspace, tmp_path):
    """The document as 0.1.0 wrote it."""
    kept = {
        "folder": str(tmp_path),
        "backbone": "efficientnet_lite0",
        "weights": None,
        "recipe": "exact",
        "size": 64,
        "views": 2,
        "case": None,
        "strategy": "fine-tune",
        "auto_minutes": 2.0,
        "by": "eve",
    }
    write_registration(Workspace.open(workspace), "pets", kept)
    wanted = OnboardRequest(str(tmp_path), str(workspace), "pets", size=64, views=2, strategy="fine-tune", by="eve")
    assert find_request(Workspace.open(workspace), "pets") == wanted
    assert wanted.to_remember() == kept


@pytest.mark.parametrize("changed", [{"views": "many"}, {"unknown": 1}])
def test_a_registration_that_makes_no_request_says_what_to_do(workspace, changed):
    write_registration(Workspace.open(workspace), "pets", {"folder": "/pets", **changed})
    with pytest.raises(DamagedError, match=r"The stored request of 'pets' cannot be read. .* Onboard it once more"):
        find_request(Workspace.open(workspace), "pets")
