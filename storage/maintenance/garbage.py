"""Garbage: what no dataset and no model needs any more, and its removal.

Needed are the rows of every picture in a dataset's current manifest, or in the manifest that a saved model or a
fine-tuning job names.
If one manifest or record cannot be read, nothing is removed. Which rows there are is read from the shards, not from
the catalog. What only a version that is removed now had needed is removed the next time.

Every space is locked before manifests are read, so that a run which starts meanwhile waits, and then finds missing
what was removed. At every step of a removal the needed rows are in a complete shard on disk.
"""

from __future__ import annotations

import hashlib
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from pipeline.errors import ConflictError, DamagedError, NotFoundError
from pipeline.types import Digest, Space
from storage.datasets.manifests import find_dataset
from storage.disk.atomic import explained, write_whole
from storage.disk.locks import alone
from storage.disk.staging import abandoned, sweep
from storage.features.catalog import Catalog, ShardRow
from storage.features.spaces import read_space
from storage.jobs.folder import is_running, last_written, list_folders, read_document, remove_job
from storage.maintenance.needed import find_asked, read_needed
from storage.models.engines import list_engines
from storage.models.serving import remove_version
from storage.workspace import Workspace

Kind = Literal["shard", "manifest", "model", "engine", "job", "quarantine", "staging"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What may go of the things that nothing needs."""

    grace_seconds: float = 24 * 3600.0  # what is younger stays, always
    older_than_seconds: float = 0.0  # what is younger stays, this time
    max_bytes: int | None = None  # of the whole workspace: the oldest go first, and none once it fits


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something that nothing needs, or a shard of which some rows are not needed."""

    kind: Kind
    path: Path
    written: float  # seconds since 1970
    num_rows: int  # that go
    num_bytes: int  # that come free; a share of the file where needed rows stay
    reason: str
    space: Space | None = None  # of a shard


class Collected(NamedTuple):
    garbage: tuple[Garbage, ...]  # oldest first
    left_alone: tuple[str, ...]  # spaces that were not looked into, and why


def collect(
    workspace: Workspace, engines: Collection[str], limits: Limits, delete: bool, superseded: Collection[Path] = ()
) -> Collected:
    """Find what nothing needs and, with `delete`, remove it.

    Parameters
    ----------
    engines
        Ids of the compiled networks that can still be used.
    superseded
        Folders of models' versions that may go.

    Raises
    ------
    ConflictError
        What is needed cannot be known for certain; nothing was removed.
    """
    catalog = Catalog(workspace)
    with ExitStack() as held:
        try:
            spaces, left_alone = _enter(workspace, held)
            _check_catalog(workspace, catalog, spaces)
            needed = read_needed(workspace)
            found = [
                *(item for space in spaces for item in _find_rows(workspace, space, needed.digests)),
                # a run may be about to name an old manifest in its model's record
                *(
                    _garbage("manifest", path, "not current, and no model was trained on it")
                    for path in workspace.datasets.glob("*/*.jsonl")
                    if path not in needed.manifests and not left_alone
                ),
                *(_garbage("model", folder, "superseded by newer versions") for folder in superseded),
                *(
                    _garbage(
                        "engine", folder, "compiled for a network, an OpenVINO or a headstart that is not here now"
                    )
                    for folder in list_engines(workspace)
                    if folder.name not in engines
                ),
                *_find_jobs(workspace),
                *_find_leftovers(workspace, limits.grace_seconds),
            ]
        except (DamagedError, NotFoundError) as error:
            raise ConflictError(f"{error} Nothing was removed. `headstart verify` says what is damaged.") from error
        except OSError as error:
            raise ConflictError(f"Cannot read {error.filename}: {error.strerror}. Nothing was removed.") from error
        if not needed.digests and any(item.kind == "shard" for item in found):
            raise ConflictError(
                f"No dataset and no model is known in {workspace.root}, so that all features would go. Nothing was "
                "removed. If that is meant, remove the folder."
            )
        garbage = _choose(workspace, found, limits)
        if delete:
            for item in garbage:
                _remove(workspace, catalog, item, needed.digests, limits)
    return Collected(tuple(garbage), tuple(left_alone))


def _enter(workspace: Workspace, held: ExitStack) -> tuple[list[Space], list[str]]:
    """Lock every space that no process has open."""
    spaces, left_alone = [], []
    for folder in sorted(path.parent for path in workspace.spaces.glob("*/space.json")):
        try:
            space = read_space(workspace, folder.name)
        except DamagedError:
            raise
        except ConflictError as error:  # of another version
            left_alone.append(str(error))
            continue
        if held.enter_context(alone(folder)):
            spaces.append(space)
        else:
            left_alone.append(f"Space {space.id} ({space.backbone}) is in use; run again when that has ended.")
    return spaces, left_alone


def _check_catalog(workspace: Workspace, catalog: Catalog, spaces: Collection[Space]) -> None:
    """Raise DamagedError if the catalog is damaged or gone: then nothing is removed, though no row is read from it."""
    if not any(any(workspace.shards(space.id)) for space in spaces):
        return
    if not workspace.catalog.exists():
        raise DamagedError(f"{workspace.catalog} is gone.")
    catalog.database.check()


def _find_rows(workspace: Workspace, space: Space, needed: Collection[Digest]) -> Iterator[Garbage]:
    from storage.features.shards import open_shard

    for _, path in workspace.shards(space.id):
        shard = open_shard(path, space)
        num_rows = sum(key.tobytes() not in needed for key in shard.keys)
        if num_rows:
            yield Garbage(
                "shard",
                path,
                path.stat().st_mtime,
                num_rows,
                shard.num_bytes * num_rows // shard.num_rows,
                f"pictures that no dataset or model has, in {space.id} ({space.backbone})",
                space,
            )


def _find_jobs(workspace: Workspace) -> Iterator[Garbage]:
    """Find jobs on pictures that are not the dataset's any more, and what ended jobs left behind."""
    for folder in list_folders(workspace):
        if is_running(workspace, folder.name):
            continue
        asked = find_asked(folder)
        ref = find_dataset(workspace, asked.dataset) if asked else None
        if asked is None:
            yield _garbage("job", folder, "of a job that ended before it had begun", last_written(folder))
        elif ref is None or ref.fingerprint != asked.fingerprint:
            yield _garbage("job", folder, "its dataset has other pictures now", last_written(folder))
        elif (outcome := folder / "outcome.json").exists():
            read_document(outcome)  # a damaged one decides nothing
            for left in workspace.job_leftovers(folder.name):
                yield _garbage("job", left, "left behind by a job that has ended", last_written(left))


def _find_leftovers(workspace: Workspace, grace_seconds: float) -> Iterator[Garbage]:
    for path in workspace.quarantine.glob("*"):
        moved = path.lstat().st_ctime  # the time of the move, not that of the last write
        yield _garbage("quarantine", path, "damaged, and set aside", moved)
    for path in abandoned(workspace.staging.folder, grace_seconds):
        yield _garbage("staging", path, "left behind by a process that ended early")


def _garbage(kind: Kind, path: Path, reason: str, written: float | None = None) -> Garbage:
    return Garbage(kind, path, path.lstat().st_mtime if written is None else written, 0, _size(path), reason)


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    num_bytes = 0
    for file in [path, *path.rglob("*")]:
        with suppress(FileNotFoundError):  # others continue their work
            status = file.lstat()
            num_bytes += 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return num_bytes


def _choose(workspace: Workspace, found: list[Garbage], limits: Limits) -> list[Garbage]:
    """Keep to the limits; oldest first."""
    latest = time.time() - max(limits.grace_seconds, limits.older_than_seconds)
    old = sorted((item for item in found if item.written <= latest), key=lambda item: item.written)
    if limits.max_bytes is None:
        return old
    chosen = []
    excess = _size(workspace.root) - limits.max_bytes
    for item in old:
        if excess <= 0:
            break
        chosen.append(item)
        excess -= item.num_bytes
    return chosen


def _remove(workspace: Workspace, catalog: Catalog, item: Garbage, needed: Collection[Digest], limits: Limits) -> None:
    if item.space is not None:
        _remove_rows(workspace, catalog, item.space, item.path, needed)
    elif item.kind == "staging":
        sweep(workspace.staging, limits.grace_seconds)
    elif item.kind == "model":
        remove_version(workspace, item.path)
    elif item.kind == "job":
        with explained(item.path):
            remove_job(workspace, item.path, item.written)
    else:
        with explained(item.path), suppress(FileNotFoundError):
            if item.path.lstat().st_mtime <= item.written:  # else it was written again since we looked
                remove = workspace.staging.fs.remove_tree if item.path.is_dir() else workspace.staging.fs.unlink
                remove(item.path)


def _remove_rows(workspace: Workspace, catalog: Catalog, space: Space, path: Path, needed: Collection[Digest]) -> None:
    """Take rows out of the store: those that stay are complete under another name before their old file goes."""
    from storage.features.shards import encode_shard, is_named_after_content, open_shard

    if not is_named_after_content(path):
        raise DamagedError(f"{path} is damaged: its content does not match its name. Run `headstart verify`.")
    shard = open_shard(path, space)
    rows = np.flatnonzero([key.tobytes() in needed for key in shard.keys])
    if len(rows):
        keys = shard.keys[rows]
        image = encode_shard(
            space,
            [key.tobytes() for key in keys],
            {tap.name: shard.read_rows(tap.name, rows, keys) for tap in space.taps},
        )
        name = hashlib.sha256(image).hexdigest()
        write_whole(workspace.shard(space.id, name), image, workspace.staging, mode=0o444)
        catalog.add(space, [ShardRow(name, len(rows), len(image), keys.tobytes())])
    catalog.remove(space, [path.stem])
    with explained(path):
        workspace.staging.fs.unlink(path)
        workspace.staging.fs.fsync_path(path.parent)
        if not any(workspace.shards(space.id)):
            workspace.staging.fs.remove_tree(workspace.space(space.id))
