"""What the documents promise is so."""

import re
from pathlib import Path

import pytest
from typer.cli import app as typer_app
from typer.testing import CliRunner

from flows.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path: path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]}
REFERENCE = PAGES[ROOT / "docs" / "reference" / "commands.md"]
COMMANDS = [
    *(command.name or command.callback.__name__ for command in app.registered_commands),
    *(group.name for group in app.registered_groups),
]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_reference(name):
    assert f"## `headstart {name}`\n" in REFERENCE


def test_the_reference_of_commands_is_what_the_command_line_says_today():
    made = CliRunner().invoke(typer_app, ["flows.cli.app", "utils", "docs", "--name", "headstart"])
    assert made.exit_code == 0, made.output
    assert made.stdout.strip() == REFERENCE.strip(), "run make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_modules_and_make_targets_that_a_page_names_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    if page.name != "CHANGELOG.md":  # which tells of the past
        for module in re.findall(r"\b(?:pipeline|storage|flows)(?:\.[a-z_]+)+\b", PAGES[page]):
            place = ROOT / module.replace(".", "/")
            assert place.is_dir() or place.with_suffix(".py").is_file(), module
    for target in re.findall(r"`make ([a-z]+)`", PAGES[page]):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
