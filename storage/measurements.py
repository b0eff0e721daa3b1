"""Measurements that are made once and read often, by kind and key."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from pipeline.errors import DamagedError, NotFoundError
from storage.disk.documents import read_value, write_json
from storage.workspace import Workspace

log = logging.getLogger(__name__)

Kind = Literal["similarity", "backbones", "tuning", "audits", "rankings", "rates"]

VERSIONS: dict[Kind, int] = {"similarity": 1, "backbones": 1, "tuning": 1, "audits": 1, "rankings": 1, "rates": 1}


def write_measurement(workspace: Workspace, kind: Kind, key: str, value: Mapping[str, Any]) -> None:
    path = workspace.measurement(kind, key)
    write_json(path, {"value": dict(value)}, f"headstart.{kind}", VERSIONS[kind], workspace.staging)


def find_measurement(workspace: Workspace, kind: Kind, key: str) -> dict[str, Any] | None:
    """Return what was written under a key; a damaged measurement goes to quarantine, and there is none."""
    try:
        return read_measurement(workspace, kind, key)
    except NotFoundError:
        return None
    except DamagedError as error:
        log.warning("%s It moved to %s.", error, workspace.set_aside(workspace.measurement(kind, key)))
        return None


def read_measurement(workspace: Workspace, kind: Kind, key: str) -> dict[str, Any]:
    """Read what was written under a key; raises as `read_json` does."""
    return read_value(workspace.measurement(kind, key), f"headstart.{kind}", VERSIONS[kind])


def list_measurements(workspace: Workspace, kind: Kind) -> list[str]:
    """The key of every measurement of a kind."""
    return sorted(path.stem for path in workspace.measurements(kind).glob("*.json"))
