"""Help in plain text: commands and options in groups, and examples as they are typed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from typer.core import TyperCommand, TyperGroup

START, MODELS, DATA, SERVICE = GROUPS = "Start here", "Models", "Data and store", "Jobs and service"
ARGUMENTS, OPTIONS = "Arguments", "Options"


class Command(TyperCommand):
    """A command, whose epilog has examples."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = (param for param in self.get_params(ctx) if param.param_type_name == "argument")
        return [*([self.options_metavar] if self.options_metavar else []), *map(_usage, arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write(formatter, [(ARGUMENTS, None), (OPTIONS, None), *_rows(self, ctx)])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Examples"):
            for example in examples_of(self):
                formatter.write(f"  {example}\n")


class Group(TyperGroup):
    """A command with commands of its own, which it shows first, in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        commands: list[Any] = list(self.commands.items())
        rows = [
            (command.rich_help_panel or "Commands", (name.ljust(width), command.short_help))
            for name, command in commands
        ]
        _write(formatter, [*((group, None) for group in GROUPS), *rows, *_rows(self, ctx)])


def _usage(argument: Any) -> str:
    name = f"{_name(argument)}{'...' if argument.nargs != 1 else ''}"
    return name if argument.required else f"[{name}]"


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _rows(command: TyperCommand | TyperGroup, ctx: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    parameters: list[Any] = command.get_params(ctx)
    for param in parameters:
        if param.param_type_name == "argument":
            yield ARGUMENTS, (_name(param), param.help)
        elif record := param.get_help_record(ctx):
            yield getattr(param, "rich_help_panel", None) or OPTIONS, record


def _write(formatter: Any, rows: Iterable[tuple[str, tuple[str, str] | None]]) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    for title, row in rows:
        groups.setdefault(title, []).extend([row] if row else [])
    for title, lines in groups.items():
        if lines:
            with formatter.section(title):
                formatter.write_dl(lines)


def examples_of(command: Any) -> list[str]:
    """List the command lines that a command shows as examples: the indented lines of its epilog."""
    return [line.strip() for line in (command.epilog or "").splitlines() if line.startswith("    ")]
