"""The options that each dataset was onboarded with, so that it can be onboarded again without a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import DamagedError, NotFoundError
from storage.disk.documents import read_json, write_json
from storage.workspace import Workspace

FORMAT = "headstart.onboarded"
VERSION = 1


def write_registration(workspace: Workspace, name: str, asked: Mapping[str, Any] | None) -> None:
    """Keep what a dataset was onboarded with; None if it cannot be asked for again: it was rows from Python."""
    try:
        known = find_registration(workspace, name)
    except DamagedError:
        known = None
    if known != asked:
        write_json(workspace.onboarded(name), {"asked": asked and dict(asked)}, FORMAT, VERSION, workspace.staging)


def find_registration(workspace: Workspace, name: str) -> dict[str, Any] | None:
    """Return what a dataset was onboarded with; None if it never was, or cannot be asked for again.

    Raises
    ------
    DamagedError
        The file is not as it was written.
    """
    path = workspace.onboarded(name)
    advice = f"Onboard it once more, with the same options: headstart onboard DIR --name {name}"
    try:
        asked: dict[str, Any] | None = read_json(path, FORMAT, VERSION).get("asked", "")
    except NotFoundError:
        return None
    except DamagedError as error:
        raise DamagedError(f"{error} {advice}") from error
    if not isinstance(asked, dict | None):
        raise DamagedError(f"{path} is damaged: it does not say what was asked. {advice}")
    return asked
