"""Small results worth keeping, by kind and key: measured once, read often."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import DamagedError, NotFoundError
from storage.disk.atomic import read_json, write_json
from storage.workspace import Workspace

log = logging.getLogger(__name__)

Kind = Literal["similarity", "backbones", "tuning", "audits", "rankings", "rates"]

VERSIONS: dict[Kind, int] = {"similarity": 1, "backbones": 1, "tuning": 1, "audits": 1, "rankings": 1, "rates": 1}


def write_record(workspace: Workspace, kind: Kind, key: str, value: Mapping[str, Any]) -> None:
    path = workspace.record(kind, key)
    write_json(path, {"value": dict(value)}, f"headstart.{kind}", VERSIONS[kind], workspace.stage)


def find_record(workspace: Workspace, kind: Kind, key: str) -> dict[str, Any] | None:
    """Return what was written under a key; a damaged record goes to quarantine and is measured again."""
    try:
        return read_record(workspace, kind, key)
    except NotFoundError:
        return None
    except DamagedError as error:
        log.warning("%s It moved to %s.", error, workspace.set_aside(workspace.record(kind, key)))
        return None


def read_record(workspace: Workspace, kind: Kind, key: str) -> dict[str, Any]:
    """Read what was written under a key; raises as `read_json` does."""
    path = workspace.record(kind, key)
    value = read_json(path, f"headstart.{kind}", VERSIONS[kind]).get("value")
    if not isinstance(value, dict):
        raise DamagedError(f"{path} is damaged: it holds no value.")
    return value


def list_records(workspace: Workspace, kind: Kind) -> list[Path]:
    """The file of every record of a kind; its stem is the key."""
    return sorted(workspace.records(kind).glob("*.json"))
