"""Saved models: one folder (a bundle) per version, complete or absent, never changed afterwards."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import ConflictError, DamagedError, HeadstartError
from pipeline.report.record import ModelRecord, ModelRef
from storage.datasets.names import parse_dataset_name
from storage.disk.atomic import explained, make_folder
from storage.disk.documents import read_json, write_json
from storage.disk.hashes import changed_files, hash_file, hash_files
from storage.disk.locks import alone
from storage.disk.staging import publish_folder, scratch_folder
from storage.models.bundles import REPORT_FILE
from storage.workspace import Workspace

log = logging.getLogger(__name__)

FORMAT = "headstart.record"
VERSION = 1
RECORD = "record.json"


def save_version(
    workspace: Workspace, name: str, fill: Callable[[Path], ModelRecord], render: Callable[[ModelRecord], str]
) -> ModelRef:
    """Make the next version of a model; after an error nothing of it remains.

    Parameters
    ----------
    fill
        Writes the files of the model into a folder; returns its record.
    render
        Makes the report of a record that has its version and the digests of all other files. It is called again if
        another process takes the number.
    """
    name = parse_dataset_name(name)
    with scratch_folder(workspace.staging) as folder:
        record = fill(folder)
        files = hash_files(folder)
        while True:
            version = max(version_numbers(workspace, name), default=0) + 1
            record = replace(record, name=name, model_version=version, files=files)
            (folder / REPORT_FILE).write_text(render(record), encoding="utf-8")
            record = replace(record, files={**files, REPORT_FILE: hash_file(folder / REPORT_FILE)})
            write_json(folder / RECORD, record.to_json(), FORMAT, VERSION, workspace.staging)
            final = workspace.model(name, version)
            if publish_folder(folder, final, workspace.staging):
                return ModelRef(name, version, str(final), record)


@contextmanager
def one_at_a_time(workspace: Workspace, name: str) -> Iterator[None]:
    """Wait until no other process makes or promotes a version of a model. The lock ends with the process.

    On a file system without locks no process waits: two may then train the same version, and both are kept.
    """
    folder = workspace.models / parse_dataset_name(name)
    with explained(folder):
        make_folder(folder, workspace.staging.fs)
    with ExitStack() as held:
        with suppress(ConflictError):
            held.enter_context(alone(folder, wait=True))
        yield


def read_ref(folder: Path) -> ModelRef:
    """Read a bundle's record, wherever the bundle lies."""
    document = read_record(folder)
    try:
        record = ModelRecord.from_json(document)
    except DamagedError as error:
        raise DamagedError(f"{folder / RECORD} is damaged. {error}") from error
    return ModelRef(record.name, record.model_version, str(folder), record)


def read_record(folder: Path) -> dict[str, Any]:
    """Read a bundle's record as the document that it is."""
    return read_json(folder / RECORD, FORMAT, VERSION)


def find_by_request(workspace: Workspace, name: str, request: str) -> ModelRef | None:
    """Find the newest version that was made from the same request, a digest of all that determined it."""
    found = [ref for ref in _readable(workspace, name) if ref.record.request == request]
    return found[-1] if found else None


def list_models(workspace: Workspace) -> list[ModelRef]:
    """Every readable version, by name and number."""
    return [ref for name in list_names(workspace) for ref in _readable(workspace, name)]


def list_versions(workspace: Workspace) -> list[Path]:
    """The folder of every version, readable or not."""
    return [
        workspace.model(name, version) for name in list_names(workspace) for version in version_numbers(workspace, name)
    ]


def check_bundle(ref: ModelRef) -> None:
    """Raise DamagedError unless every file is as it was when the model was saved."""
    files = ref.record.files
    if not files:
        raise DamagedError(f"{ref.path} is damaged: its record lists no files.")
    if changed := changed_files(Path(ref.path), files):
        raise DamagedError(f"{ref.path} is damaged: {', '.join(changed)} changed since it was saved. Train again.")


def list_names(workspace: Workspace) -> list[str]:
    """The name of every model."""
    return sorted(path.name for path in workspace.models.glob("*") if version_numbers(workspace, path.name))


def version_numbers(workspace: Workspace, name: str) -> list[int]:
    """The number of every version of a model, readable or not, ascending."""
    try:
        names = os.listdir(workspace.models / name) if name else []
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConflictError(f"Cannot read {workspace.models / name}: {error.strerror}.") from error
    return sorted(int(number) for number in names if number.isdecimal())


def _readable(workspace: Workspace, name: str) -> Iterator[ModelRef]:
    for version in version_numbers(workspace, name):
        try:
            yield read_ref(workspace.model(name, version))
        except HeadstartError as error:  # one damaged model must not hide the others
            log.warning("left out: %s", error)
