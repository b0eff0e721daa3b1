"""Frozen values to JSON and back, at the rim: documents that are stored, printed or handed to a server."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast

from pipeline.errors import DamagedError

Value = TypeVar("Value")


def to_json(value: object) -> dict[str, Any]:
    """Return a frozen dataclass as a JSON object: fields by name, tuples as lists."""
    kind: Any = type(value)
    document: dict[str, Any] = _adapter(kind).dump_python(value, mode="json")
    return document


def from_json(kind: type[Value], document: Mapping[str, Any]) -> Value:
    """Read back what `to_json` wrote. A field that is missing gets its default, one that is unknown is ignored.

    Raises
    ------
    DamagedError
        A field without a default is missing, or a value is of another type than its field.
    """
    from pydantic import ValidationError

    adapter = _adapter(cast(Any, kind))
    try:
        value: Value = adapter.validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DamagedError(f"A stored {kind.__name__} is damaged at {place!r}: {first['msg']}.") from error
    return value


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # 70 ms: not before it is needed

    return TypeAdapter(kind)
