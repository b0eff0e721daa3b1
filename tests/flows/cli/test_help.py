"""What the command line says about itself. It is text, so one process reads all of it."""

import re
import shlex

import pytest
import typer.main
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.help import GROUPS, examples_of
from flows.forms import Request
from flows.requests import (
    AuditRequest,
    ExtractRequest,
    FinetuneRequest,
    GcRequest,
    OnboardRequest,
    PredictBatchRequest,
    PredictRequest,
    RefreshRequest,
    VerifyRequest,
)

WIDTH = 80
ROOT = typer.main.get_command(app)
COMMANDS = {**ROOT.commands, "jobs cancel": ROOT.commands["jobs"].commands["cancel"]}
OF_REQUESTS: dict[str, type[Request]] = {
    "onboard": OnboardRequest,
    "plan": OnboardRequest,
    "extract": ExtractRequest,
    "predict": PredictRequest,
    "finetune": FinetuneRequest,
    "audit": AuditRequest,
    "refresh": RefreshRequest,
    "predict-batch": PredictBatchRequest,
    "verify": VerifyRequest,
    "gc": GcRequest,
}


def help_of(*arguments):
    done = CliRunner().invoke(app, [*arguments, "--help"], prog_name="headstart", env={"COLUMNS": str(WIDTH)})
    assert done.exit_code == 0, done.output
    return done.output


def words(text):
    return " ".join(text.split())


def test_the_help_shows_every_command_in_a_group_with_a_line_of_its_own():
    shown = help_of()
    places = [shown.index(f"\n{group}:\n") for group in GROUPS]
    assert places == sorted(places)
    for name, command in ROOT.commands.items():
        assert command.rich_help_panel in GROUPS, name
        summary = command.help.partition("\n")[0]
        assert re.search(rf"^  {name} +{re.escape(summary)}$", shown, re.MULTILINE), name
    assert "..." not in shown.replace("[ARGS]...", "")


def test_the_help_says_what_exit_codes_mean():
    assert "Exit codes: 0 ok, 1 bug, 2 usage, 3 invalid data, 4 not found, 5 conflict" in words(help_of())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_fits_a_terminal_and_explains_every_option(name):
    shown = help_of(*name.split())
    assert max(map(len, shown.splitlines())) <= WIDTH
    for parameter in COMMANDS[name].params:
        if parameter.name != "help":
            assert parameter.help, parameter.name
            assert words(parameter.help) in words(shown), parameter.name
            assert parameter.help.endswith("."), parameter.name


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "jobs"])
def test_the_examples_of_a_command_are_command_lines_that_it_understands(name):
    examples = examples_of(COMMANDS[name])
    assert examples
    for example in examples:
        assert f"  {example}\n" in help_of(*name.split())
        program, *arguments = shlex.split(example)
        given = arguments[len(name.split()) :]
        assert (program, arguments[: len(name.split())]) == ("headstart", name.split())
        with COMMANDS[name].make_context(name, given):
            pass


@pytest.mark.parametrize("name", OF_REQUESTS)
def test_a_command_has_an_option_for_every_field_of_its_request_with_its_words_and_default(name):
    parameters = {parameter.name: parameter for parameter in COMMANDS[name].params}
    for field_name, field in OF_REQUESTS[name].__pydantic_fields__.items():
        if field_name == "by":  # known: the person who gives the command
            assert field_name not in parameters
            continue
        parameter = parameters[field_name]
        assert parameter.help == field.description
        if not field.is_required() and field.default != ():
            assert parameter.default == field.default
    shown = help_of(name)
    if name == "gc":
        assert "[default: 24h]" in shown
    if "top" in parameters:
        assert "default: 3" in words(shown)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--views", "65"), ("--views", "-1"), ("--case", "5"), ("--recipe", "fast"), ("--strategy", "hope")],
)
def test_a_value_out_of_bounds_is_an_error_that_names_its_option(option, value):
    done = CliRunner().invoke(app, ["onboard", "pictures", option, value])
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.output


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"headstart {version('headstart')}\n")
