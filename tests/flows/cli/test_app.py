import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.documents import to_document
from flows.features import extraction
from flows.requests import OnboardRequest
from flows.settings import workspace_root
from pipeline.backbones.table import DEFAULT_BACKBONE, get_backbone
from pipeline.jsonable import to_json
from storage.features.writer import FeatureWriter
from storage.workspace import Workspace
from tests import factories

ROOT = Path(__file__).resolve().parents[3]


def error_lines(finished):
    return [line for line in finished.stderr.splitlines() if line.startswith("error:")]


# ── starting up ──────────────────────────────────────────────────────────────────────────────────


def test_help_loads_nothing_heavy(headstart):
    found = headstart("onboard", "--help")
    assert (found.code, found.loaded) == (0, set())


def test_without_arguments_there_is_help(headstart):
    found = headstart()
    assert "Usage: headstart" in found.stderr + found.stdout
    assert found.loaded == set()


# ── errors: a code, one line, and no waiting for TensorFlow ──────────────────────────────────────


def prepare_folders(root):
    """One folder for every kind of dataset that cannot be used."""
    factories.write_dataset(root / "good", num_classes=2, per_class=2)
    factories.write_dataset(root / "one class", num_classes=1)
    (root / "empty").mkdir()
    for name in ("a", "b"):
        (root / "only text" / name).mkdir(parents=True)
        (root / "only text" / name / "x.png").write_text("no picture")
    (root / "a file").write_text("no folder")
    return root


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["onboard", "good", "--backbone", "eficientnet_lite0"], 2, "Did you mean 'efficientnet_lite0'"),
        (["plan", "good", "--backbone", "nope"], 2, "Unknown backbone 'nope'"),
        (["onboard", "good", "--size", "100"], 2, "multiple of 32 from 64 to 1024"),
        (["inspect", "nope"], 2, "Unknown backbone 'nope'"),
        (["onboard", "good", "--name", "Bad Name!"], 2, "cannot be a name"),
        (["predict", "nobody", "x.png", "--csv", "--jsonl"], 2, "exclude each other"),
        (["finetune", "pets", "--retry"], 2, "--retry needs --submit"),
        (["finetune", "pets", "--must-pass", "--submit"], 2, "exclude each other"),
        (["onboard", "empty"], 3, "found no files to train on"),
        (["onboard", "one class"], 3, "only one class"),
        (["onboard", "only text"], 3, "needs at least two classes"),
        (["onboard", "a file"], 3, "is no folder"),
        (["onboard", "missing"], 4, "There is no folder"),
        (["plan", "missing"], 4, "There is no folder"),
        (["predict", "nobody", "x.png"], 4, "no model 'nobody'"),
        (["finetune", "nobody"], 4, "no model 'nobody'"),
        (["jobs", "cancel", "nobody"], 4, "no job 'nobody'"),
        (["show", "nobody@3"], 4, "no model 'nobody'"),
        (["show", "./nowhere"], 4, "is no model"),
        (["onboard", "good", "--workspace", "a file/below"], 5, "a file"),
        (["datasets", "--workspace", "a file/below"], 5, "a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_error_is_one_line_with_its_exit_code_before_tensorflow_loads(
    headstart, tmp_path, monkeypatch, arguments, code, said
):
    monkeypatch.chdir(prepare_folders(tmp_path))
    found = headstart(*arguments)
    (line,) = error_lines(found)
    assert found.code == code
    assert said in line
    assert "Traceback" not in found.stderr
    assert found.stdout == ""
    assert not found.loaded & {"tensorflow", "keras", "openvino", "sklearn", "prefect"}


@pytest.mark.parametrize("arguments", [["nonsense"], ["onboard"], ["onboard", "x", "--nonsense"], ["predict", "x"]])
def test_a_command_line_that_is_none_exits_with_2(headstart, arguments):
    found = headstart(*arguments)
    assert (found.code, found.stdout, found.loaded) == (2, "", set())


def test_a_name_in_use_for_another_folder_is_a_conflict(headstart, tmp_path, workspace):
    for place in ("here", "there"):
        factories.write_dataset(tmp_path / place / "pets", num_classes=2, per_class=2)
    factories.scan(OnboardRequest(str(tmp_path / "here" / "pets"), str(workspace)))
    found = headstart("plan", tmp_path / "there" / "pets", "--workspace", workspace)
    assert found.code == 5
    assert "Pass --name" in error_lines(found)[0]
    assert "tensorflow" not in found.loaded


def test_file_names_that_are_no_text_can_be_printed(headstart, tmp_path):
    found = headstart("onboard", os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    assert found.code == 4
    assert "caf\\udce9" in error_lines(found)[0]


@pytest.mark.prefect
def test_no_server_is_an_exit_code_of_its_own(headstart, tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for command in (["onboard", tmp_path, "--submit"], ["deploy"]):
        found = headstart(*command, PREFECT_HOME=str(tmp_path))
        assert found.code == 7
        assert "No Prefect server is named" in error_lines(found)[0]


# ── an empty workspace ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("what", ["datasets", "features", "models", "jobs"])
def test_an_empty_workspace_lists_nothing(headstart, workspace, what):
    found = headstart(what, "--json", "--workspace", workspace)
    assert json.loads(found.stdout)[what] == []
    assert headstart(what, HEADSTART_HOME=str(workspace)).stdout == ""
    assert not found.loaded & {"tensorflow", "keras", "openvino", "sklearn", "prefect"}


def test_the_workspace_is_the_option_else_the_environment_else_the_platforms(monkeypatch):
    monkeypatch.setenv("HEADSTART_HOME", "from-environment")
    assert workspace_root(Path("from-option")) == Path("from-option")
    assert workspace_root(None) == Path("from-environment")
    monkeypatch.setenv("HEADSTART_HOME", "")
    assert workspace_root(None).name == "headstart"


# ── after a first run ────────────────────────────────────────────────────────────────────────────


@pytest.mark.heavy
def test_a_second_run_prints_one_document_and_loads_no_network(headstart, first_run):
    found = headstart("onboard", first_run.folder, "--json", "--workspace", first_run.workspace)
    assert found.code == 0, found.stderr
    assert not found.loaded & {"tensorflow", "keras", "openvino", "sklearn", "h5py", "PIL", "prefect"}
    document, first = json.loads(found.stdout), json.loads(json.dumps(first_run.document))
    features = document.pop("features")
    assert (features["num_computed"], features["num_reused"]) == (0, 24)
    assert document.pop("seconds")["total"] >= 0
    assert (document.pop("trained"), document.pop("serving")["promoted"]) == (False, False)
    other = ("features", "seconds", "trained", "serving")
    assert document == {key: value for key, value in first.items() if key not in other}


@pytest.mark.heavy
def test_for_people_the_case_the_accuracy_and_the_model_are_printed(headstart, first_run):
    found = headstart("onboard", first_run.folder, "--workspace", first_run.workspace)
    case = first_run.document["case"]
    assert f"shapes: case {case}" in found.stdout
    assert "features: 0 computed, 24 reused, 0 rejected" in found.stdout
    assert "accuracy " in found.stdout
    assert "model shapes@1 in " in found.stdout
    assert all(reason in found.stdout for reason in first_run.document["reasons"])


@pytest.mark.heavy
def test_what_a_workspace_holds_is_listed(headstart, first_run):
    def listed(what):
        return json.loads(headstart(what, "--json", "--workspace", first_run.workspace).stdout)[what]

    (dataset,) = (row for row in listed("datasets") if row["name"] == "shapes")
    assert (dataset["num_images"], dataset["num_classes"]) == (24, 3)
    spec = get_backbone(DEFAULT_BACKBONE)
    spaces = {row["space"]: row["num_images"] for row in listed("features")}
    assert set(spaces) == {spec.space().id, spec.moment_space().id}
    assert spaces[spec.space().id] >= 24
    assert [row["kind"] for row in listed("models") if row["model"] == "shapes@1"] == ["head"]


@pytest.mark.heavy
def test_a_model_is_shown_by_name_by_version_and_by_folder(headstart, first_run):
    for model in ("shapes@1", first_run.document["model"]["path"]):
        record = json.loads(headstart("show", model, "--json", "--workspace", first_run.workspace).stdout)
        assert (record["name"], record["model_version"]) == ("shapes", 1)
        assert record["metrics"]["accuracy"] == first_run.document["metrics"]["accuracy"]
    report = headstart("show", "shapes@1", "--workspace", first_run.workspace).stdout
    assert report.startswith("#")
    missing = headstart("show", "shapes@99", "--workspace", first_run.workspace)
    assert (missing.code, "no version '99'" in missing.stderr) == (4, True)


# ── fine-tuning that has ended ───────────────────────────────────────────────────────────────────


@pytest.mark.heavy
@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 6)])
def test_a_gate_that_is_not_passed_has_an_exit_code_where_that_is_asked_for(headstart, again, passed, code):
    from flows.finetuning.job import get_job_plan
    from flows.requests import FinetuneRequest
    from storage.jobs.folder import run_exclusively

    planned = get_job_plan(FinetuneRequest("shapes", str(again.workspace)))
    result = factories.a_finetune_result(passed, job=planned.id)
    gate = to_json(result.gate)
    with run_exclusively(planned.workspace, planned.id, planned.asked) as job:
        job.write_outcome(to_document(result))

    finetune = ("finetune", "shapes", "--workspace", again.workspace)
    shown = headstart(*finetune)
    assert shown.code == 0, shown.stderr
    assert gate["reason"] in shown.stdout
    assert ("shapes@2" if passed else "the head stays the model") in shown.stdout
    asked = headstart(*finetune, "--must-pass", "--json")
    assert (asked.code, json.loads(asked.stdout)["gate"]) == (code, gate)
    assert ["The head stays the model" in line for line in error_lines(asked)] == [True] * (not passed)
    assert not asked.loaded & {"tensorflow", "prefect"}


# ── predicting ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def mixed(first_run, tmp_path_factory):
    """Nine good pictures with a broken and a missing one among them."""
    folder = tmp_path_factory.mktemp("mixed")
    paths = [factories.write_photo(folder / f"{place}.png", 500 + place, (60, 50)) for place in range(9)]
    (folder / "broken.png").write_bytes(paths[0].read_bytes()[:100])
    return [*paths[:3], folder / "broken.png", *paths[3:7], folder / "missing.png", *paths[7:]]


@pytest.mark.heavy
def test_predictions_come_as_json_lines_in_the_order_asked_with_a_row_for_every_failure(headstart, first_run, mixed):
    found = headstart("predict", "shapes@1", *mixed, "--jsonl", "--top", "3", "--workspace", first_run.workspace)
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in mixed]
    failed = {Path(row["path"]).name: row["error"] for row in rows if "error" in row}
    assert set(failed) == {"broken.png", "missing.png"}
    assert failed["missing.png"] == "cannot be read: No such file or directory"
    for row in rows:
        if "error" not in row:
            assert [row["label"], row["probability"]] == row["top"][0]
            assert sorted(name for name, _ in row["top"]) == ["class0", "class1", "class2"]
            shares = [share for _, share in row["top"]]
            assert shares == sorted(shares, reverse=True)
            assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert found.code == 3
    assert error_lines(found) == ["error: 2 of the files could not be predicted; their rows say why."]


@pytest.mark.heavy
def test_predictions_come_as_csv(headstart, first_run, mixed):
    found = headstart("predict", "shapes@1", *mixed[:4], "--csv", "--workspace", first_run.workspace)
    header, *rows = [line.split(",") for line in found.stdout.splitlines()]
    assert header == ["path", "label", "probability", "error"]
    assert [row[0] for row in rows] == [str(path) for path in mixed[:4]]
    assert all(row[1].startswith("class") and 0 < float(row[2]) <= 1 and row[3] == "" for row in rows[:3])
    assert rows[3][1:3] == ["", ""]
    assert rows[3][3]
    assert found.code == 3


@pytest.mark.heavy
def test_predictions_come_as_a_table_without_loading_tensorflow_a_second_time(headstart, first_run, mixed):
    headstart("predict", "shapes@1", mixed[0], "--workspace", first_run.workspace)  # compiles the model
    found = headstart("predict", "shapes@1", mixed[0], "--workspace", first_run.workspace)
    assert found.code == 0, found.stderr
    assert str(mixed[0]) in found.stdout
    assert not found.loaded & {"tensorflow", "keras", "sklearn", "h5py", "prefect"}


@pytest.mark.heavy
def test_predictions_of_the_test_split_are_the_confusion_of_the_record(headstart, first_run):
    workspace = ("--workspace", first_run.workspace)
    record = json.loads(headstart("show", "shapes@1", "--json", *workspace).stdout)
    tested = first_run.manifest.of_split("test")
    found = headstart("predict", "shapes@1", *(first_run.folder / i.path for i in tested), "--jsonl", *workspace)
    confusion = [[0] * 3 for _ in range(3)]
    for image, line in zip(tested, found.stdout.splitlines(), strict=True):
        confusion[image.label][first_run.manifest.classes.index(json.loads(line)["label"])] += 1
    assert confusion == record["metrics"]["confusion"]


@pytest.mark.heavy
def test_a_folder_is_predicted_file_by_file_without_hidden_ones(headstart, first_run, tmp_path):
    for name in ("b.png", "a.png", "sub/c.png", ".hidden.png"):
        factories.write_photo(tmp_path / name, 600)
    found = headstart("predict", "shapes@1", tmp_path, "--csv", "--workspace", first_run.workspace)
    paths = [line.split(",")[0] for line in found.stdout.splitlines()[1:]]
    assert paths == [str(tmp_path / name) for name in ("a.png", "b.png", "sub/c.png")]


@pytest.mark.heavy
def test_a_model_whose_files_changed_is_refused(headstart, first_run, tmp_path):
    model = shutil.copytree(first_run.document["model"]["path"], tmp_path / "model")
    (model / "classes.json").write_text((model / "classes.json").read_text().replace("class0", "class9"))
    found = headstart("predict", model, first_run.folder, "--workspace", first_run.workspace)
    assert found.code == 5
    assert "classes.json changed since it was saved" in error_lines(found)[0]


# ── Ctrl-C ───────────────────────────────────────────────────────────────────────────────────────


def stop_extracting(folder, workspace, number=signal.SIGINT):
    """Onboard on a terminal of its own, stop it when the first features are there, and return code and output."""
    command = [sys.executable, "-m", "flows.cli.app", "onboard", str(folder), "--workspace", str(workspace)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown, stopped = "", False
    while True:
        assert select.select([ours], [], [], 120)[0], f"nothing was shown for two minutes after: {shown[-300:]}"
        try:
            shown += os.read(ours, 65536).decode(errors="replace")
        except OSError:  # the terminal of a process that ended
            break
        if not stopped and re.search(r"extract.* [1-9]\d*/400", shown):
            process.send_signal(number)
            stopped = True
    os.close(ours)
    return process.wait(), shown


@pytest.fixture(scope="module")
def interrupted(first_run, tmp_path_factory):
    """A run that was interrupted while it computed the features of 400 pictures."""
    root = tmp_path_factory.mktemp("interrupted")
    folder = factories.write_dataset(root / "many", num_classes=2, per_class=200)
    workspace = root / "workspace"
    shutil.copytree(first_run.workspace / "engines", workspace / "engines")
    code, shown = stop_extracting(folder, workspace)
    return SimpleNamespace(folder=folder, workspace=workspace, code=code, shown=shown)


@pytest.mark.heavy
def test_an_interrupted_run_exits_with_130_and_without_a_traceback(interrupted):
    assert interrupted.code == 130, interrupted.shown
    assert "Traceback" not in interrupted.shown


@pytest.mark.heavy
def test_an_interrupted_run_says_that_what_was_computed_is_kept(interrupted):
    assert "Stopped. Finished work is saved; run the same command again to continue." in interrupted.shown


@pytest.mark.heavy
def test_an_interrupted_run_gives_the_cursor_back(interrupted):
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert interrupted.shown.rfind(shown) > interrupted.shown.rfind(hidden) >= 0


@pytest.mark.heavy
def test_the_run_after_an_interrupted_one_goes_on_from_there(interrupted):
    dataset = factories.scan(OnboardRequest(str(interrupted.folder), str(interrupted.workspace)))
    extracted = extraction.extract(Workspace.open(interrupted.workspace), dataset, get_backbone(DEFAULT_BACKBONE))
    assert extracted.num_images == 400
    assert 0 < extracted.num_computed < 400


@pytest.mark.heavy
def test_a_run_that_is_asked_to_terminate_keeps_what_it_has_too(interrupted, warm_workspace):
    code, shown = stop_extracting(interrupted.folder, warm_workspace, signal.SIGTERM)
    assert code == 143, shown
    assert "Stopped. Finished work is saved" in shown
    with FeatureWriter(Workspace.open(warm_workspace), get_backbone("efficientnet_lite0").space()) as store:
        assert 0 < store.num_stored < 400


@pytest.mark.parametrize("arguments", [("models", "--workspace", ""), ("onboard", "")])
def test_an_empty_name_is_a_usage_error_and_not_the_current_folder(headstart, arguments, tmp_path):
    done = headstart(*arguments, cwd=tmp_path)

    assert done.code == 2
    assert "empty" in done.stderr
    assert list(tmp_path.iterdir()) == []
