from __future__ import annotations

import json
import os
import threading

import pytest

from pipeline.errors import ConflictError, DamagedError, NotFoundError, UsageError
from storage.models import check_bundle, find_by_request, get_model, list_models, new_version
from tests.factories import rewrite_document


@pytest.fixture
def save(workspace):
    def save(name, request="r", content=b"weights"):
        with new_version(workspace, name) as version:
            (version.folder / "model.keras").write_bytes(content)
            (version.folder / "plots").mkdir()
            (version.folder / "plots" / "curve.png").write_bytes(b"png")
            version.record = {"request": request, "accuracy": 0.9}
        return version.ref

    return save


def test_versions_count_up_and_the_newest_is_meant(save, workspace):
    assert [save("pets").version for _ in range(11)] == list(range(1, 12))
    assert get_model(workspace, "pets").version == 11
    assert get_model(workspace, "pets@3").version == 3


def test_a_bundle_explains_itself(save, workspace):
    ref = save("pets")
    assert sorted(os.listdir(ref.path)) == ["model.keras", "plots", "record.json"]
    with open(os.path.join(ref.path, "record.json")) as file:
        record = json.load(file)
    assert record.pop("checksum")
    assert record == ref.record
    assert (record["format"], record["version"]) == ("headstart.record", 1)
    assert (record["name"], record["model_version"], record["accuracy"]) == ("pets", 1, 0.9)
    assert sorted(record["files"]) == ["model.keras", "plots/curve.png"]


def test_a_bundle_is_found_by_its_path_wherever_it_lies(save, workspace, tmp_path):
    ref = save("pets")
    os.rename(ref.path, tmp_path / "copy")
    found = get_model(workspace, str(tmp_path / "copy"))
    assert (found.name, found.version, found.path) == ("pets", 1, str(tmp_path / "copy"))
    with pytest.raises(NotFoundError, match=r"is no model: it has no record\.json"):
        get_model(workspace, str(tmp_path))


def test_nothing_remains_of_a_version_that_failed(save, workspace):
    save("pets")

    def interrupted():
        with new_version(workspace, "pets") as version:
            (version.folder / "model.keras").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert get_model(workspace, "pets").version == 1
    assert os.listdir(workspace.staging) == []


def test_a_version_needs_a_record(workspace):
    with pytest.raises(RuntimeError, match="needs a record"), new_version(workspace, "pets"):
        pass
    assert list_models(workspace) == []


def test_a_version_has_no_ref_before_it_is_committed(workspace):
    with new_version(workspace, "pets") as version:
        version.record = {}
        with pytest.raises(RuntimeError, match="not committed"):
            _ = version.ref


def test_a_model_needs_a_good_name(workspace):
    with pytest.raises(UsageError), new_version(workspace, "../pets"):
        pass


def test_versions_saved_at_once_get_numbers_of_their_own(save):
    refs = []
    threads = [threading.Thread(target=lambda: refs.append(save("pets"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ref.version for ref in refs) == list(range(1, 9))
    assert all(ref.record["model_version"] == ref.version for ref in refs)


def test_the_newest_version_of_a_request_is_found(save, workspace):
    for request in ("one", "two", "one", "two"):
        save("pets", request)
    assert find_by_request(workspace, "pets", "one").version == 3
    assert find_by_request(workspace, "pets", "three") is None
    assert find_by_request(workspace, "cars", "one") is None


def test_an_unknown_model_is_not_found_and_near_names_are_offered(save, workspace):
    with pytest.raises(NotFoundError, match="no models yet"):
        get_model(workspace, "pets")
    save("pets")
    with pytest.raises(NotFoundError, match=r"no model 'pet'\. Did you mean 'pets'\?"):
        get_model(workspace, "pet")
    with pytest.raises(NotFoundError, match=r"has no version '2'\. There are: 1\."):
        get_model(workspace, "pets@2")
    for text in ("", "@1", "..", "pets@x", "pets@01"):
        with pytest.raises(NotFoundError):
            get_model(workspace, text)


def test_models_are_listed_by_name_and_number_and_a_damaged_one_hides_no_other(save, workspace):
    for name in ("zoo", "pets", "pets"):
        save(name)
    (workspace.model("pets", 1) / "record.json").write_text("{")
    assert [(ref.name, ref.version) for ref in list_models(workspace)] == [("pets", 2), ("zoo", 1)]
    with pytest.raises(DamagedError):
        get_model(workspace, "pets@1")


def test_a_record_of_another_version_is_refused(save, workspace):
    path = workspace.model("pets", save("pets").version) / "record.json"
    rewrite_document(path, version=2)
    with pytest.raises(ConflictError, match="version 2"):
        get_model(workspace, "pets")


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"other"), lambda path: path.unlink()])
def test_a_changed_file_of_a_bundle_is_noticed(save, workspace, change):
    ref = save("pets")
    check_bundle(ref)
    change(workspace.model("pets", 1) / "model.keras")
    with pytest.raises(DamagedError, match=r"model\.keras changed"):
        check_bundle(ref)
