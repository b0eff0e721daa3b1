"""Saved models: one folder (a bundle) per version, complete or absent, never changed afterwards."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pipeline.errors import ConflictError, DamagedError, HeadstartError, NotFoundError
from pipeline.types import ModelRef
from storage.atomic import publish_folder, read_json, scratch_folder, write_json
from storage.manifests import parse_dataset_name
from storage.sealed import changed_files, hash_files
from storage.workspace import Workspace

log = logging.getLogger(__name__)

FORMAT = "headstart.record"
VERSION = 1
RECORD = "record.json"


class NewVersion:
    """A bundle in the making: fill `folder` and set `record`; `ref` is there once it is committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record: Mapping[str, Any] | None = None
        self._ref: ModelRef | None = None

    @property
    def ref(self) -> ModelRef:
        if self._ref is None:
            raise RuntimeError("the version is not committed before its block ends")
        return self._ref

    def _commit(self, workspace: Workspace, name: str) -> None:
        if self.record is None:
            raise RuntimeError("a model needs a record: set `record` before the block ends")
        files = hash_files(self.folder)
        while self._ref is None:
            version = max(_versions(workspace, name), default=0) + 1
            final = workspace.model(name, version)
            record = {**self.record, "name": name, "model_version": version, "files": files}
            write_json(self.folder / RECORD, record, FORMAT, VERSION, workspace.stage)
            if publish_folder(self.folder, final, workspace.stage.fs):  # else another process took the number
                self._ref = read_ref(final)


@contextmanager
def new_version(workspace: Workspace, name: str) -> Iterator[NewVersion]:
    """Make the next version of a model; after an error in the block nothing of it remains.

    >>> with new_version(workspace, "flowers") as version:  # doctest: +SKIP
    ...     save(version.folder / "model.keras")
    ...     version.record = {"request": request}
    >>> version.ref.version  # doctest: +SKIP
    1
    """
    name = parse_dataset_name(name)
    with scratch_folder(workspace.staging, workspace.stage.fs) as folder:
        version = NewVersion(folder)
        yield version
        version._commit(workspace, name)


def read_ref(folder: Path) -> ModelRef:
    """Read a bundle's record, wherever the bundle lies."""
    record = read_json(folder / RECORD, FORMAT, VERSION)
    try:
        return ModelRef(str(record["name"]), int(record["model_version"]), str(folder), record)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{folder / RECORD} is damaged: it lacks {error}.") from error


def get_model(workspace: Workspace, text: str) -> ModelRef:
    """Find a bundle by "name" (its newest version), "name@3", or a path (anything with a "/").

    Raises
    ------
    NotFoundError
        There is none; the message offers the nearest names.
    """
    if os.sep in text:
        folder = Path(os.path.abspath(text))
        if not (folder / RECORD).is_file():
            raise NotFoundError(f"{folder} is no model: it has no {RECORD}.")
        return read_ref(folder)
    name, _, number = text.partition("@")
    versions = _versions(workspace, name)
    if not versions:
        raise NotFoundError(f"There is no model '{name}'. {_nearest(workspace, name)}")
    wanted = number or str(max(versions))
    if wanted not in map(str, versions):
        known = ", ".join(map(str, sorted(versions)))
        raise NotFoundError(f"Model '{name}' has no version '{number}'. There are: {known}.")
    return read_ref(workspace.model(name, int(wanted)))


def find_by_request(workspace: Workspace, name: str, request: str) -> ModelRef | None:
    """Find the newest version that was made from the same request, a digest of all that determined it."""
    found = [ref for ref in _readable(workspace, name) if ref.record.get("request") == request]
    return found[-1] if found else None


def list_models(workspace: Workspace) -> list[ModelRef]:
    """Every readable version, by name and number."""
    return [ref for name in _names(workspace) for ref in _readable(workspace, name)]


def list_versions(workspace: Workspace) -> list[Path]:
    """The folder of every version, readable or not."""
    return [workspace.model(name, version) for name in _names(workspace) for version in _versions(workspace, name)]


def check_bundle(ref: ModelRef) -> None:
    """Raise DamagedError unless every file is as it was when the model was saved."""
    files = ref.record.get("files")
    if not isinstance(files, dict):
        raise DamagedError(f"{ref.path} is damaged: its record lists no files.")
    if changed := changed_files(Path(ref.path), files):
        raise DamagedError(f"{ref.path} is damaged: {', '.join(changed)} changed since it was saved. Train again.")


def _names(workspace: Workspace) -> list[str]:
    if not workspace.models.is_dir():
        return []
    return sorted(path.name for path in workspace.models.iterdir() if _versions(workspace, path.name))


def _versions(workspace: Workspace, name: str) -> list[int]:
    try:
        names = os.listdir(workspace.models / name) if name else []
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConflictError(f"Cannot read {workspace.models / name}: {error.strerror}.") from error
    return sorted(int(number) for number in names if number.isdecimal())


def _readable(workspace: Workspace, name: str) -> Iterator[ModelRef]:
    for version in _versions(workspace, name):
        try:
            yield read_ref(workspace.model(name, version))
        except HeadstartError as error:  # one damaged model must not hide the others
            log.warning("left out: %s", error)


def _nearest(workspace: Workspace, name: str) -> str:
    known = _names(workspace)
    if not known:
        return "There are no models yet: run `headstart onboard`."
    close = get_close_matches(name, known, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(known)}."
