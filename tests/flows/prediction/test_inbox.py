"""`headstart predict-batch` with a real model: every file once, whatever happens between two runs."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from flows.prediction.files import files_below, predict
from flows.prediction.inbox import predict_batch
from flows.progress import Quiet
from flows.requests import PredictBatchRequest
from pipeline.errors import ConflictError, DataError, NotFoundError, UsageError
from pipeline.images.decode import MAX_BYTES
from storage.models.serving import promote
from storage.models.versions import RECORD
from storage.workspace import Workspace
from tests import factories
from tests.conftest import ROOT

pytestmark = pytest.mark.heavy

MODEL = "shapes"
NOW = 4 * 10**18  # nanoseconds since 1970: later than any file is


@pytest.fixture(scope="module", autouse=True)
def _compiled(first_run):
    """Let the model's network be compiled before its workspace is copied."""
    assert list(predict(str(first_run.workspace), MODEL, [str(next(first_run.folder.rglob("*.png")))], 1))


@pytest.fixture
def inbox(again, tmp_path):
    """A folder of six pictures, a workspace with a model, and a place for the table."""
    folder = tmp_path / "inbox"
    for number in range(6):
        factories.write_photo(folder / "new"[: number % 2 * 3] / f"{number}.png", 100 + number)
    factories.age(folder)
    return SimpleNamespace(folder=folder, workspace=again.workspace, output=tmp_path / "out.csv")


def run(inbox, progress=None, **changed):
    fields = {"model": MODEL, "folder": inbox.folder, "output": inbox.output, "workspace": inbox.workspace} | changed
    fields |= {name: str(fields[name]) for name in ("folder", "output", "workspace")}
    return predict_batch(PredictBatchRequest(**fields), progress or Quiet())


def table(inbox):
    with open(inbox.output, newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def add(inbox, name, number=0):
    path = factories.write_photo(inbox.folder / name, number)
    os.utime(path, (number, number))  # long ago: what is young is waited for
    return path


def new_version(inbox):
    """Let a second version of the model serve, which is the first under another number."""
    models = inbox.workspace / "models" / MODEL
    shutil.copytree(models / "1", models / "2")
    factories.rewrite_document(models / "2" / RECORD, model_version=2)
    promote(Workspace.open(inbox.workspace), MODEL, 2, "for the test")


# ── what is new ──────────────────────────────────────────────────────────────────────────────────


def test_the_table_says_what_predict_says(inbox):
    result = run(inbox)
    assert (result.num_new, result.num_rows, result.num_failed, result.num_unread) == (6, 6, 0, 0)
    assert (result.model, result.output, result.written) == ("shapes@1", str(inbox.output), True)
    wanted = predict(str(inbox.workspace), MODEL, [str(inbox.folder)], 3)
    found = table(inbox)
    for row in wanted:
        cells = found.pop(os.path.relpath(row.path, inbox.folder))
        assert cells["label"] == row.top[0][0]
        shown = [(cells[f"label{n}"], cells[f"probability{n}"]) for n in ("", "_2", "_3")]
        assert shown == [(name, f"{value:.6f}") for name, value in row.top]
        assert (cells["model"], cells["error"]) == ("shapes@1", "")
    assert found == {}


def test_only_what_is_new_or_changed_is_predicted(inbox, monkeypatch):
    read = []
    from flows.prediction import inbox as module

    real = module.predict_with

    def telling(workspace, ref, paths, top):
        paths = list(paths)
        read.extend(os.path.relpath(path, inbox.folder) for path in paths)
        return real(workspace, ref, paths, top)

    monkeypatch.setattr(module, "predict_with", telling)
    run(inbox)
    assert sorted(read) == sorted(table(inbox))
    before, first = inbox.output.stat(), table(inbox)
    read.clear()
    result = run(inbox)
    assert (read, result.num_new, result.num_rows, result.written) == ([], 0, 6, False)
    assert inbox.output.stat() == before

    add(inbox, "late/9.png", 9)
    add(inbox, "0.png", 77)  # another picture under a known name
    assert run(inbox).num_new == 2
    assert sorted(read) == ["0.png", "late/9.png"]
    found = table(inbox)
    assert found["0.png"]["probability"] != first["0.png"]["probability"]
    assert {path: row for path, row in found.items() if path not in read} == {
        path: row for path, row in first.items() if path != "0.png"
    }


def test_a_file_that_is_gone_keeps_its_row(inbox):
    run(inbox)
    first = table(inbox)
    (inbox.folder / "0.png").unlink()
    result = run(inbox)
    assert (result.num_files, result.num_rows) == (5, 6)
    assert table(inbox) == first


def test_hidden_files_pipes_and_broken_links_are_left_out(inbox):
    shutil.copy(inbox.folder / "0.png", inbox.folder / ".hidden.png")
    os.mkfifo(inbox.folder / "pipe.png")
    (inbox.folder / "broken.png").symlink_to("nowhere.png")
    (inbox.folder / "round").symlink_to(inbox.folder)
    assert run(inbox).num_rows == 6


def test_a_file_that_is_no_picture_has_a_row_with_the_reason_and_is_not_read_again(inbox):
    (inbox.folder / "notes.txt").write_text("not a picture")
    (inbox.folder / "empty.png").touch()
    (inbox.folder / "film.png").touch()
    os.truncate(inbox.folder / "film.png", MAX_BYTES + 1)
    result = run(inbox)
    assert (result.num_new, result.num_failed, result.num_rows) == (9, 3, 9)
    found = table(inbox)
    assert found["notes.txt"]["error"].startswith("not a picture that can be read")
    assert found["empty.png"]["error"] == "empty file (0 bytes)"
    assert found["film.png"]["error"] == "256 MiB file, more than the 256 MiB limit"
    assert found["empty.png"]["label"] == ""
    assert run(inbox).num_new == 0


def test_a_file_that_cannot_be_read_just_now_is_tried_the_next_time(inbox, caplog):
    """It goes away between the look at the folder and the reading of it."""
    away = inbox.folder.with_name("away")

    class Vanishing(Quiet):
        def start(self, stage, total):
            inbox.folder.rename(away)

    result = run(inbox, Vanishing())
    away.rename(inbox.folder)
    assert (result.num_new, result.num_unread, result.num_rows) == (0, 6, 0)
    assert "6 files could not be read" in caplog.text
    assert table(inbox) == {}
    result = run(inbox)
    assert (result.num_new, result.num_unread, result.num_rows) == (6, 0, 6)


def test_a_picture_that_is_being_copied_is_predicted_again_when_it_is_whole(inbox):
    whole = factories.encoded(factories.a_photo(5), "JPEG")
    path = inbox.folder / "slow.jpg"
    path.write_bytes(whole[: len(whole) // 2])
    assert run(inbox).num_failed == 1
    path.write_bytes(whole)
    result = run(inbox)
    assert (result.num_new, result.num_failed, result.num_rows) == (1, 0, 7)
    assert table(inbox)["slow.jpg"]["error"] == ""


def test_reading_begins_when_another_change_would_show_in_the_time_of_the_file(inbox, monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("time.time_ns", lambda: NOW)
    path = add(inbox, "new.png")
    os.utime(path, ns=(0, NOW - 500_000_000))
    run(inbox)
    os.utime(path, ns=(0, NOW + 10**12))  # a clock is wrong
    run(inbox)
    os.utime(path, ns=(0, NOW - 10**12))
    run(inbox)
    assert slept == [1.5, 2.0, 0.0]


# ── the model ────────────────────────────────────────────────────────────────────────────────────


def test_a_newer_version_predicts_what_is_new_and_every_picture_if_asked(inbox):
    run(inbox)
    new_version(inbox)
    add(inbox, "late.png")
    assert run(inbox).num_new == 1
    made_by = {path: row["model"] for path, row in table(inbox).items()}
    assert made_by.pop("late.png") == "shapes@2"
    assert {*made_by.values()} == {"shapes@1"}
    assert run(inbox, every=True).num_new == 6
    assert {row["model"] for row in table(inbox).values()} == {"shapes@2"}
    assert run(inbox, every=True).num_new == 0


def test_another_output_predicts_everything(inbox):
    run(inbox)
    other = inbox.output.with_name("other.parquet")
    assert run(inbox, output=other).num_new == 6
    from pyarrow import parquet

    assert sorted(parquet.read_table(other)["path"].to_pylist()) == sorted(table(inbox))


# ── the output ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_text("edited")])
def test_an_output_that_was_edited_or_deleted_is_written_anew(inbox, spoil):
    run(inbox)
    first = table(inbox)
    spoil(inbox.output)
    result = run(inbox)
    assert (result.num_new, result.written) == (0, True)
    assert table(inbox) == first


def test_what_cannot_be_asked_for_is_refused_before_anything_is_predicted(inbox, tmp_path):
    with pytest.raises(UsageError, match=r"does not end in \.csv or \.parquet"):
        run(inbox, output=tmp_path / "out.xlsx")
    with pytest.raises(UsageError, match=r"The output .* lies in"):
        run(inbox, output=inbox.folder / "out.csv")
    with pytest.raises(UsageError, match=r"The workspace .* lies in"):
        run(inbox, folder=inbox.workspace.parent, output=tmp_path.with_suffix(".csv"))
    (tmp_path / "link").symlink_to(inbox.folder)
    with pytest.raises(UsageError, match=r"The output .* lies in"):
        run(inbox, folder=tmp_path / "link", output=inbox.folder / "out.csv")
    with pytest.raises(NotFoundError, match="There is no folder"):
        run(inbox, folder=tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match="no model 'nobody'"):
        run(inbox, model="nobody")
    inbox.output.write_text("mine")
    with pytest.raises(ConflictError, match="It is not replaced"):
        run(inbox)
    assert inbox.output.read_text() == "mine"


def test_a_folder_that_cannot_be_read_is_no_empty_one(inbox, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        run(inbox)


# ── the command line ─────────────────────────────────────────────────────────────────────────────


def test_the_command_prints_one_document_and_loads_no_tensorflow(headstart, inbox):
    (inbox.folder / "notes.txt").write_text("not a picture")
    arguments = ["predict-batch", MODEL, inbox.folder, inbox.output, "--workspace", inbox.workspace]
    found = headstart(*arguments, "--json")
    assert found.code == 0  # one bad file must not fail a schedule for ever
    document = json.loads(found.stdout)
    assert (document["schema_version"], document["num_new"], document["num_failed"]) == (1, 7, 1)
    assert "tensorflow" not in found.loaded
    again = headstart(*arguments)
    assert again.stdout == f"shapes@1: 0 new files, 0 of them not pictures; 7 rows in {inbox.output}, unchanged.\n"
    assert again.loaded <= {"rich", "numpy"}


RUN = """
import os, signal, sys
from storage.predictions import ledger as predictions
predictions.COMMIT_ROWS = 4
append, num_rows, number = predictions.Ledger.append, int(sys.argv[1]), int(sys.argv[2])
from flows.prediction import inbox
write_table = inbox.write_table

def dying_write(*arguments):
    if num_rows == 0:
        os.kill(os.getpid(), number)
    return write_table(*arguments)

inbox.write_table = dying_write

def dying_append(ledger, row):
    append(ledger, row)
    if len(ledger.rows) == num_rows:
        os.kill(os.getpid(), number)

predictions.Ledger.append = dying_append
from flows.cli.app import main
sys.argv[:] = ["headstart", *sys.argv[3:]]
main()
"""


@pytest.mark.parametrize(
    ("number", "place", "num_kept"),
    [(signal.SIGKILL, 5, 4), (signal.SIGTERM, 5, 5), (signal.SIGKILL, 0, 6)],
    ids=["killed at the fifth row", "stopped politely", "killed before the table"],
)
def test_the_next_run_continues_where_one_was_ended(inbox, number, place, num_kept):
    """Rows are committed four at a time, and all of them before the table is written."""
    arguments = ["predict-batch", MODEL, inbox.folder, inbox.output, "--workspace", inbox.workspace]
    ended = subprocess.run(
        [sys.executable, "-c", RUN, str(place), str(number.value), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143}[number]
    assert not inbox.output.exists()
    result = run(inbox)
    assert (result.num_new, result.num_rows) == (6 - num_kept, 6)
    assert sorted(table(inbox)) == sorted(
        os.path.relpath(path, inbox.folder) for path in files_below([str(inbox.folder)])
    )
