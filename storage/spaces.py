"""The descriptor of each feature space beside its shards, so that a store explains itself."""

from __future__ import annotations

from typing import Any

from pipeline.errors import DamagedError
from pipeline.fingerprint import canonical_json
from pipeline.types import Recipe, Space, Tap
from storage.atomic import read_json, to_json, write_once
from storage.workspace import Workspace

FORMAT = "headstart.space"
VERSION = 1


def write_space(workspace: Workspace, space: Space) -> None:
    """Write the descriptor unless it is there; one that disagrees is an error."""
    path = workspace.space_file(space.id)
    if not path.exists():
        document = {"id": space.id, "descriptor": space.descriptor()}
        write_once(path, to_json(document, FORMAT, VERSION), workspace.stage)
    check_space(workspace, space)


def check_space(workspace: Workspace, space: Space) -> None:
    """Raise DamagedError where the folder of this space describes another one."""
    path = workspace.space_file(space.id)
    if not path.exists():
        return
    found = read_json(path, FORMAT, VERSION).get("descriptor")
    if canonical_json(found) != canonical_json(space.descriptor()):
        raise DamagedError(
            f"{path} describes another feature space than {space.id} ({space.backbone}). "
            f"Move {path.parent} away; its features will be computed again."
        )


def list_spaces(workspace: Workspace) -> list[Space]:
    """Every space that has features here, by backbone name."""
    found = [_parse(read_json(path, FORMAT, VERSION)) for path in workspace.spaces.glob("*/space.json")]
    return sorted(found, key=lambda space: (space.backbone, space.id))


def _parse(document: dict[str, Any]) -> Space:
    try:
        fields = dict(document["descriptor"])
        fields["recipe"] = Recipe(**fields["recipe"])
        fields["taps"] = tuple(Tap(**tap) for tap in fields["taps"])
        return Space(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"The descriptor of space {document.get('id')} is damaged ({error}).") from error
