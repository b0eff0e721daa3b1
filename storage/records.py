"""Small results worth keeping, by kind and key: measured once, read often."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from pipeline.errors import DamagedError, NotFoundError
from storage.atomic import read_json, write_json
from storage.workspace import Workspace

log = logging.getLogger(__name__)

Kind = Literal["similarity"]

VERSIONS: dict[Kind, int] = {"similarity": 1}


def write_record(workspace: Workspace, kind: Kind, key: str, value: Mapping[str, Any]) -> None:
    path = workspace.record(kind, key)
    write_json(path, {"value": dict(value)}, f"headstart.{kind}", VERSIONS[kind], workspace.stage)


def find_record(workspace: Workspace, kind: Kind, key: str) -> dict[str, Any] | None:
    """Return what was written under a key; a damaged record goes to quarantine and is measured again."""
    path = workspace.record(kind, key)
    try:
        value = read_json(path, f"headstart.{kind}", VERSIONS[kind]).get("value")
        if not isinstance(value, dict):
            raise DamagedError(f"{path} is damaged: it holds no value.")
    except NotFoundError:
        return None
    except DamagedError as error:
        log.warning("%s It moved to %s.", error, workspace.set_aside(path))
        return None
    return value
