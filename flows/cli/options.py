"""Commands from requests: each field of a request is an option or an argument, with its bounds and its help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Annotated, Any, get_origin

import typer

from flows.cli.help import Command
from flows.forms import Request, parse_request
from flows.requests import RefreshRequest
from flows.settings import workspace_root

SHORT = {"workspace": "-w", "name": "-n", "backbone": "-b", "top": "-k"}
METAVARS = {
    "auto_minutes": "MINUTES",
    "backbone": "NAME",
    "case": "1-4",
    "checkpoint_seconds": "SECONDS",
    "folder": "DIR",
    "grace": "SPAN",
    "layer_decay": "SHARE",
    "max_size": "SIZE",
    "older_than": "SPAN",
    "name": "NAME",
    "names": "NAME",
    "paths": "PATH",
    "size": "PIXELS",
    "unfreeze_epochs": "EPOCHS",
    "weights": "WEIGHTS",
    "workspace": "DIR",
}
NOT_ASKED = ("by",)  # known: the person who gives the command


def described(kind: type[Any], field: str) -> str:
    """Look up the help of a request's field."""
    return str(kind.__pydantic_fields__[field].description)


WorkspaceOption = Annotated[
    str,
    typer.Option(
        "--workspace",
        "-w",
        metavar="DIR",
        help=described(RefreshRequest, "workspace"),
        callback=lambda given: str(workspace_root(given)),
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
SubmitOption = Annotated[bool, typer.Option("--submit", help="Hand the job to a Prefect server.")]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="With --submit: wait until the run has ended, and exit with its code.")
]

Function = Callable[..., None]


def command(
    app: typer.Typer, group: str, *examples: str, asks: type[Request] | None = None, name: str | None = None
) -> Callable[[Function], Function]:
    """Add a function to the command line.

    Parameters
    ----------
    examples
        Command lines, shown in the help.
    asks
        A kind of request, of which the function takes one, and the command the options.
    """

    def add(function: Function) -> Function:
        run = _asking(asks, function) if asks else function
        lines = "\n".join(f"    {example}" for example in examples)  # a block of code in Markdown
        summary = str(function.__doc__).partition("\n")[0]
        app.command(name, cls=Command, rich_help_panel=group, short_help=summary, epilog=f"**Examples**:\n\n{lines}")(
            run
        )
        return function

    return add


def _asking(kind: type[Request], function: Function) -> Function:
    _, *others = inspect.signature(function, eval_str=True).parameters.values()
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in others]

    def run(**given: Any) -> None:
        extra = {parameter.name: given.pop(parameter.name) for parameter in own}
        asked = {name: value for name, value in given.items() if value is not None}
        function(parse_request(kind, asked), **extra)

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    parameters = sorted([*_parameters(kind), *own], key=lambda one: one.name in ("workspace", "json"))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _parameters(kind: type[Request]) -> Iterator[inspect.Parameter]:
    card_of = {field.name: part.TITLE for part in kind.CARDS.values() for field in fields(part)}
    asked: Any = kind
    for name, field in asked.__pydantic_fields__.items():
        if name in NOT_ASKED:
            continue
        is_list = get_origin(field.annotation) is tuple
        wanted: Any = list[str] if is_list else field.annotation
        metavar = METAVARS.get(name, "N" if field.annotation in (int, int | None) else None)
        settings: dict[str, Any] = {"metavar": metavar, "help": field.description}
        for limit in field.metadata:
            settings |= {key: getattr(limit, of) for of, key in (("ge", "min"), ("le", "max")) if hasattr(limit, of)}
        if field.is_required() or is_list:
            info: Any = typer.Argument(**settings)
        else:
            short = [SHORT[name]] if name in SHORT else []
            info = typer.Option(f"--{name.replace('_', '-')}", *short, **settings, rich_help_panel=card_of.get(name))
        default = inspect.Parameter.empty if field.is_required() else None if is_list else field.default
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[wanted | None if default is None else wanted, info],
        )
