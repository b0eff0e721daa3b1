"""The descriptor of each feature space beside its shards, so that a store explains itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import ConflictError, DamagedError, NotFoundError
from pipeline.fingerprint import fingerprint
from pipeline.types import Recipe, Space, Tap
from storage.disk.atomic import write_once
from storage.disk.documents import read_json, to_json
from storage.workspace import Workspace

FORMAT = "headstart.space"
VERSION = 1


def write_space(workspace: Workspace, space: Space) -> None:
    """Write the descriptor unless it is there; one that disagrees is an error."""
    path = workspace.space_file(space.id)
    if not path.exists():
        document = {"id": space.id, "descriptor": space.descriptor()}
        write_once(path, to_json(document, FORMAT, VERSION), workspace.staging)
    check_space(workspace, space)


def check_space(workspace: Workspace, space: Space) -> None:
    """Raise DamagedError if the folder of this space describes another one."""
    try:
        read_space(workspace, space.id)
    except NotFoundError:
        return
    except DamagedError as error:
        raise DamagedError(f"{error} `headstart verify` writes it again.") from error


def list_spaces(workspace: Workspace) -> list[Space]:
    """Every space that has features here, by backbone name."""
    found = [read_space(workspace, path.parent.name) for path in workspace.spaces.glob("*/space.json")]
    return sorted(found, key=lambda space: (space.backbone, space.id))


def read_space(workspace: Workspace, space_id: str) -> Space:
    """Read the descriptor in a space's folder.

    Raises
    ------
    NotFoundError
        There is none.
    DamagedError
        It is not what its folder is named after.
    ConflictError
        Another version of headstart wrote it, or it cannot be opened.
    """
    path = workspace.space_file(space_id)
    document = read_json(path, FORMAT, VERSION)
    return parse_space(document.get("descriptor"), space_id, path)


def parse_space(descriptor: Any, space_id: str, path: Path) -> Space:
    """Make a space of the descriptor in a file; raises as `read_space` does."""
    try:
        found_id = fingerprint(descriptor)
    except (TypeError, ValueError):
        found_id = None
    if found_id != space_id:
        raise DamagedError(f"{path} is damaged: it does not describe the space {space_id}.")
    try:
        fields = dict(descriptor)
        fields["recipe"] = Recipe(**fields["recipe"])
        fields["taps"] = tuple(Tap(**tap) for tap in fields["taps"])
        space = Space(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ConflictError(f"{path} describes features of another version of headstart ({error}).") from error
    if space.id != space_id:
        raise ConflictError(f"{path} describes features of another version of headstart.")
    return space
