"""What all requests have in common: a person's values become one, and Prefect's UI shows it as a form."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from pipeline.errors import HeadstartError, UsageError
from pipeline.jsonable import to_json

if TYPE_CHECKING:
    from typing import Self

    from pydantic import GetJsonSchemaHandler
    from pydantic_core import CoreSchema

Kind = TypeVar("Kind")
Schema = dict[str, Any]  # JSON Schema of a field
CONFIG = ConfigDict(extra="forbid", defer_build=True)  # the help of a command needs no validators


def parse_request(kind: type[Kind], given: Mapping[str, Any]) -> Kind:
    """Make a request from its fields, or from a form that was filled in.

    Raises
    ------
    UsageError
        A field is unknown or missing, or its value is out of bounds.
    """
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        raise _explained(error) from error


def _explained(error: ValidationError) -> HeadstartError:
    first = error.errors()[0]
    if isinstance(cause := first.get("ctx", {}).get("error"), HeadstartError):
        return cause
    name = ".".join(map(str, first["loc"]))
    return UsageError(f"{name}={first['input']!r} cannot be used: {first['msg'].removeprefix('Value error, ')}.")


def parse_path(given: object) -> str:
    """Accept a path, also one whose bytes are no text, which Pydantic's own strings refuse."""
    if not isinstance(given, str | os.PathLike):
        raise ValueError("it should be a path")
    if not (path := str(given)):
        raise ValueError("it is empty text, perhaps from an unset variable")
    return path


@dataclass(frozen=True, config=CONFIG)
class Request:
    """What all requests can do."""

    CARDS: ClassVar[Mapping[str, type[Any]]] = {}  # options that the form shows together, and that have a TITLE
    PATHS: ClassVar[tuple[str, ...]] = ("workspace",)

    def anywhere(self) -> Self:
        """Return the request as a process in any folder understands it: with absolute paths."""
        given = {name: getattr(self, name) for name in self.PATHS}
        paths = {name: path for name, path in given.items() if name != "weights" or (path and os.path.isfile(path))}
        return replace(self, **{name: os.path.abspath(path) for name, path in paths.items()})

    def to_form(self) -> dict[str, object]:
        """Fill in the form for a run elsewhere."""
        form: dict[str, object] = dict(to_json(self.anywhere()))
        for card, part in self.CARDS.items():
            form[card] = {field.name: form.pop(field.name) for field in fields(part)}
        return form

    @model_validator(mode="before")
    @classmethod
    def _read_form(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        flat = dict(given)
        for card in cls.CARDS:
            if isinstance(flat.get(card), Mapping):
                flat |= flat.pop(card)
        return flat

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        """Describe the form: what is on a card is an object of its own, the workspace comes last."""
        schema = handler.resolve_ref_schema(handler(core))
        shown = schema["properties"]
        workspace = shown.pop("workspace")
        for card, part in cls.CARDS.items():
            default = {field.name: shown.pop(field.name)["default"] for field in fields(part)}
            shown[card] = {**handler(TypeAdapter(part).core_schema), "title": part.TITLE, "default": default}
        shown["workspace"] = workspace
        return schema


def about(title: str, description: str, form: Any = None, **limits: Any) -> Any:
    """Describe a field: its name on the form, its help, its bounds, and what only the form has."""
    return Field(title=title, description=description, **limits, **({"json_schema_extra": form} if form else {}))


# Bounds that only the form has. The command line and Python answer such a value with a sentence of their own.


def drop_down(*values: object) -> Callable[[Schema], None]:
    """Offer these values, and nothing, as one list. Pydantic's schema would make the UI ask for a type first."""

    def change(schema: Schema) -> None:
        del schema["anyOf"]
        schema["enum"] = [None, *values]

    return change


def optional(**limits: object) -> Callable[[Schema], None]:
    """Limit a value that may be left out."""
    return lambda schema: schema["anyOf"][0].update(limits)


def on_worker(**limits: object) -> Callable[[Schema], None]:
    """Limit a path, and say whose it is."""
    return lambda schema: schema.update(limits, description=f"{schema['description']} As the worker sees it.")
