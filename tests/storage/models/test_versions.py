from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
from datetime import datetime
from pathlib import Path

import pytest

from pipeline.errors import ConflictError, DamagedError, NotFoundError, UsageError
from pipeline.report.page import render_report
from storage.models.serving import Declined, decline, find_serving, get_model, promote, serving_version
from storage.models.versions import check_bundle, find_by_request, list_models, one_at_a_time, read_ref, save_version
from tests.factories import a_record, rewrite_document, save_model


@pytest.fixture
def save(workspace):
    def save(name, request="r", content=b"weights"):
        def fill(folder):
            (folder / "model.keras").write_bytes(content)
            (folder / "plots").mkdir()
            (folder / "plots" / "curve.png").write_bytes(b"png")
            return a_record(request=request)

        return save_version(workspace, name, fill, render_report)

    return save


def test_versions_count_up_and_the_newest_is_meant(save, workspace):
    assert [save("pets").version for _ in range(11)] == list(range(1, 12))
    assert get_model(workspace, "pets").version == 11
    assert get_model(workspace, "pets@3").version == 3


def test_a_bundle_explains_itself(save, workspace):
    ref = save("pets")
    assert sorted(os.listdir(ref.path)) == ["model.keras", "plots", "record.json", "report.md"]
    with open(os.path.join(ref.path, "record.json")) as file:
        record = json.load(file)
    assert record.pop("checksum")
    assert record == {"format": "headstart.record", "version": 1, **ref.record.to_json()}
    assert (record["name"], record["model_version"], record["metrics"]["accuracy"]) == ("pets", 1, 1.0)
    assert sorted(record["files"]) == ["model.keras", "plots/curve.png", "report.md"]
    assert read_ref(Path(ref.path)) == ref
    assert read_ref(Path(ref.path)).record == ref.record


def test_a_bundle_is_found_by_its_path_wherever_it_lies(save, workspace, tmp_path):
    ref = save("pets")
    os.rename(ref.path, tmp_path / "copy")
    found = get_model(workspace, str(tmp_path / "copy"))
    assert (found.name, found.version, found.path) == ("pets", 1, str(tmp_path / "copy"))
    with pytest.raises(NotFoundError, match=r"is no model: it has no record\.json"):
        get_model(workspace, str(tmp_path))


def test_nothing_remains_of_a_version_that_failed(save, workspace):
    save("pets")

    def interrupted(folder):
        (folder / "model.keras").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_version(workspace, "pets", interrupted, render_report)
    assert get_model(workspace, "pets").version == 1
    assert os.listdir(workspace.staging.folder) == []


def test_a_model_needs_a_good_name(workspace):
    with pytest.raises(UsageError):
        save_model(workspace, name="../pets")


def test_versions_saved_at_once_get_numbers_of_their_own(save):
    refs = []
    threads = [threading.Thread(target=lambda: refs.append(save("pets"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ref.version for ref in refs) == list(range(1, 9))
    assert all(ref.record.model_version == ref.version for ref in refs)


def test_a_report_names_the_version_that_it_lies_in_though_another_process_took_its_number(workspace, save):
    seen = []

    def render(record):
        seen.append(record.model_version)
        if len(seen) == 1:
            save("pets")  # it takes the number while this report is rendered
        return render_report(record)

    def fill(folder):
        (folder / "model.keras").write_bytes(b"weights")
        return a_record()

    save_version(workspace, "pets", fill, render)
    assert seen == [1, 2]
    for number in (1, 2):
        ref = get_model(workspace, f"pets@{number}")
        report = Path(ref.path, "report.md").read_text()
        assert report.startswith(f"# pets@{number}\n")
        assert ref.record.files["model.keras"] in report
        check_bundle(ref)


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


# ── which version serves ─────────────────────────────────────────────────────────────────────────


def test_a_name_means_the_version_that_was_promoted(save, workspace):
    for _ in range(3):
        save("pets")
    assert find_serving(workspace, "pets") is None  # none was chosen: the newest
    assert serving_version(workspace, "pets") == 3
    promote(workspace, "pets", 2, "It is better.", {"difference": 0.1})
    assert get_model(workspace, "pets").version == 2
    assert get_model(workspace, "pets@3").version == 3
    serving = find_serving(workspace, "pets")
    assert (serving.version, serving.reason, serving.previous) == (2, "It is better.", 3)
    assert serving.gate == {"difference": 0.1}
    assert datetime.fromisoformat(serving.since).tzinfo is not None
    save("pets")
    assert get_model(workspace, "pets").version == 2


def test_what_a_version_was_preferred_to_is_remembered(save, workspace):
    for _ in range(4):
        save("pets")
    promote(workspace, "pets", 3, "A person chose it.", over=[1, 2, 3, 4])
    assert {version: why.data for version, why in find_serving(workspace, "pets").declined.items()} == {
        1: None,
        2: None,
        4: None,
    }
    worse = Declined("It is worse.", {"difference": -0.1}, "some data")
    decline(workspace, "pets", 2, worse)
    serving = find_serving(workspace, "pets")
    assert (serving.version, sorted(serving.declined), serving.declined[2]) == (3, [1, 2, 4], worse)
    promote(workspace, "pets", 2, "two", None, "other data")
    serving = find_serving(workspace, "pets")
    assert (serving.previous, sorted(serving.declined)) == (3, [3])  # the others were compared with another one
    assert serving.declined[3].data == "other data"


def test_only_a_version_that_is_there_can_serve(save, workspace):
    save("pets")
    with pytest.raises(NotFoundError, match="no version '2'"):
        promote(workspace, "pets", 2, "one")
    with pytest.raises(NotFoundError, match="no model 'cars'"):
        promote(workspace, "cars", 1, "one")
    assert find_serving(workspace, "pets") is None


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"format": "headstart.serving", "version": 1}', b"\xff\x00"])
def test_nobody_guesses_which_version_serves_where_that_is_damaged(save, workspace, damage):
    save("pets")
    save("pets")
    promote(workspace, "pets", 1, "one")
    workspace.serving("pets").write_bytes(damage)
    with pytest.raises(DamagedError, match="headstart promote pets@VERSION"):
        get_model(workspace, "pets")
    assert get_model(workspace, "pets@1").version == 1
    assert [ref.version for ref in list_models(workspace)] == [1, 2]
    promote(workspace, "pets", 1, "A person chose it.")
    assert get_model(workspace, "pets").version == 1
    (kept,) = workspace.quarantine.iterdir()
    assert kept.read_bytes() == damage


def test_a_version_that_serves_and_is_gone_is_said(save, workspace):
    save("pets")
    save("pets")
    promote(workspace, "pets", 2, "two")
    shutil.rmtree(workspace.model("pets", 2))
    with pytest.raises(NotFoundError, match=r"no version '2'\. There are: 1\. It served; .*headstart promote pets@"):
        get_model(workspace, "pets")


def test_one_at_a_time_works_on_a_model(workspace):
    first_is_in, second_is_in, order = threading.Event(), threading.Event(), []

    def first():
        with one_at_a_time(workspace, "pets"):
            first_is_in.set()
            second_is_in.wait(0.5)  # in vain: the second can only come in once we are out
            order.append("first")

    def second():
        first_is_in.wait(60)
        with one_at_a_time(workspace, "cars"):  # another model is nobody's hindrance
            order.append("cars")
        with one_at_a_time(workspace, "pets"):
            second_is_in.set()
            order.append("second")

    threads = [threading.Thread(target=one) for one in (second, first)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order == ["cars", "first", "second"]
    assert list_models(workspace) == []  # the folder alone is no model


def test_a_file_system_without_locks_keeps_nobody_from_working(workspace, monkeypatch):
    def refuse(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with one_at_a_time(workspace, "pets"), one_at_a_time(workspace, "pets"):
        assert serving_version(workspace, "pets") is None
