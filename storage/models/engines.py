"""Compiled networks: derived from a model and a machine, removed at any time and compiled again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConflictError, DamagedError, NotFoundError
from storage.disk.atomic import explained
from storage.disk.documents import read_json, write_json
from storage.disk.hashes import changed_files, hash_files
from storage.disk.staging import publish_folder, scratch_folder
from storage.workspace import Workspace

log = logging.getLogger(__name__)

FORMAT = "headstart.engine"
VERSION = 1
LISTING = "engine.json"


def find_engine(workspace: Workspace, engine_id: str) -> Path | None:
    """Return the folder of a compiled network; None if there is none. A damaged one is removed."""
    folder = workspace.engine(engine_id)
    if not folder.exists():
        return None
    try:
        check_engine(folder)
    except ConflictError as error:
        log.warning("%s It was removed and will be compiled again.", error)
        remove_engine(workspace, engine_id)
        return None
    return folder


def list_engines(workspace: Workspace) -> list[Path]:
    """The folder of every compiled network; its name is the engine's id."""
    return sorted(path for path in workspace.engines.glob("*") if path.is_dir())


def check_engine(folder: Path) -> None:
    """Raise ConflictError unless a compiled network is as it was written."""
    try:
        files = read_json(folder / LISTING, FORMAT, VERSION)["files"]
    except NotFoundError as error:
        raise DamagedError(f"{folder} is damaged: {error}") from error
    if changed := changed_files(folder, files):
        raise DamagedError(f"{folder} is damaged: {', '.join(changed)} changed since it was written.")


def remove_engine(workspace: Workspace, engine_id: str) -> None:
    with explained(workspace.engine(engine_id)):
        workspace.staging.fs.remove_tree(workspace.engine(engine_id))


@contextmanager
def new_engine(workspace: Workspace, engine_id: str) -> Iterator[Path]:
    """Yield a folder to save a compiled network in. If another process saves it first, that one stays."""
    final = workspace.engine(engine_id)
    with scratch_folder(workspace.staging) as folder:
        yield folder
        write_json(folder / LISTING, {"files": hash_files(folder)}, FORMAT, VERSION, workspace.staging)
        publish_folder(folder, final, workspace.staging)
