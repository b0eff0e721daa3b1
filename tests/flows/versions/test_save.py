"""What lies in a model's folder once it is saved, as a run leaves it."""

import json
import shlex
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy


@pytest.fixture
def folder(first_run):
    return Path(first_run.document["model"]["path"])


@pytest.fixture
def report(folder):
    return (folder / "report.md").read_text("utf-8")


def test_a_report_opens_with_the_name_and_the_version_of_its_model(report):
    assert report.startswith("# shapes@1\n")


def test_a_report_has_the_digest_of_every_file_beside_it(folder, report):
    files = json.loads((folder / "record.json").read_text("utf-8"))["files"]
    assert sorted(files) == ["classes.json", "model.keras", "recipe.json", "report.md"]
    for name in files.keys() - {"report.md"}:
        assert f"| {name} (SHA-256) | {files[name]} |" in report


def test_a_report_says_how_to_use_its_model_and_that_works(report, first_run, headstart):
    usage = report[report.index("## How to use it") :]
    command = next(line for line in usage.splitlines() if "headstart predict" in line)
    program, *arguments = shlex.split(
        command.replace("PICTURE...", shlex.quote(str(next(first_run.folder.rglob("*.png")))))
    )
    assert program == "headstart"
    done = headstart(*arguments, "--jsonl", "--workspace", first_run.workspace)
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["top"]
