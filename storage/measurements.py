"""Measurements that are made once and read often, by kind and key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from storage.disk.documents import read_value, write_json
from storage.workspace import Workspace

Kind = Literal["similarity", "backbones", "tuning", "audits", "rankings", "rates"]

VERSIONS: dict[Kind, int] = {"similarity": 1, "backbones": 1, "tuning": 1, "audits": 1, "rankings": 1, "rates": 1}


def write_measurement(workspace: Workspace, kind: Kind, key: str, value: Mapping[str, Any]) -> None:
    path = workspace.measurement(kind, key)
    write_json(path, {"value": dict(value)}, f"headstart.{kind}", VERSIONS[kind], workspace.staging)


def find_measurement(workspace: Workspace, kind: Kind, key: str) -> dict[str, Any] | None:
    """Return what was written under a key; None if there is nothing, or it was damaged and went to quarantine."""
    return workspace.find_intact(workspace.measurement(kind, key), lambda _: read_measurement(workspace, kind, key))


def read_measurement(workspace: Workspace, kind: Kind, key: str) -> dict[str, Any]:
    """Read what was written under a key; raises as `read_json` does."""
    return read_value(workspace.measurement(kind, key), f"headstart.{kind}", VERSIONS[kind])


def list_measurements(workspace: Workspace, kind: Kind) -> list[str]:
    """The key of every measurement of a kind."""
    return sorted(path.stem for path in workspace.measurements(kind).glob("*.json"))
