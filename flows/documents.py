"""The JSON documents of results: what commands print with `--json`, and what a run leaves in Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.jsonable import to_json

SCHEMA_VERSION = 1


def to_document(result: object) -> dict[str, Any]:
    """Return a result, a frozen value, as a JSON object. Nothing else gives a document its `schema_version`."""
    document = result if isinstance(result, Mapping) else to_json(result)
    return {"schema_version": SCHEMA_VERSION, **document}
