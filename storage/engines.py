"""Compiled networks: derived from a model and a machine, dropped without regret."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConflictError, NotFoundError
from storage.atomic import explained, publish_folder, read_json, scratch_folder, write_json
from storage.sealed import changed_files, hash_files
from storage.workspace import Workspace

log = logging.getLogger(__name__)

FORMAT = "headstart.engine"
VERSION = 1
LISTING = "engine.json"


def find_engine(workspace: Workspace, engine_id: str) -> Path | None:
    """Return the folder of a compiled network; one that is not whole is removed, and there is none."""
    folder = workspace.engine(engine_id)
    if not folder.exists():
        return None
    try:
        files = read_json(folder / LISTING, FORMAT, VERSION).get("files")
    except (ConflictError, NotFoundError) as error:
        log.warning("%s", error)
        files = None
    if isinstance(files, dict) and not changed_files(folder, files):
        return folder
    log.warning("removed %s: it is not as it was written and will be compiled again", folder)
    with explained(folder):
        workspace.stage.fs.remove_tree(folder)
    return None


@contextmanager
def new_engine(workspace: Workspace, engine_id: str) -> Iterator[Path]:
    """Yield a folder for a compiled network to be saved in; one that exists by then stays, it is the same."""
    final = workspace.engine(engine_id)
    with scratch_folder(workspace.staging, workspace.stage.fs) as folder:
        yield folder
        write_json(folder / LISTING, {"files": hash_files(folder)}, FORMAT, VERSION, workspace.stage)
        publish_folder(folder, final, workspace.stage.fs)
