"""Manifests on disk: JSON Lines, one file per fingerprint, and the one that is current for each name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import ConflictError, DamagedError, NotFoundError
from pipeline.types import Image, Manifest, Rejected
from storage.datasets.names import parse_dataset_name
from storage.disk.atomic import write_whole
from storage.disk.documents import parse_json, read_json, sealed, unsealed, write_json
from storage.workspace import Workspace

FORMAT = "headstart.manifest"
VERSION = 1
CURRENT_FORMAT = "headstart.dataset"
CURRENT_VERSION = 1


@dataclass(frozen=True, slots=True)
class DatasetRef:
    """A dataset that is known by name."""

    name: str
    root: str  # absolute folder
    fingerprint: str  # of its current manifest


def write_manifest(workspace: Workspace, manifest: Manifest, rebind: bool = False) -> DatasetRef:
    """Keep a manifest and make it the current one of its dataset.

    Raises
    ------
    ConflictError
        The name stands for another folder; `rebind` lets it move.
    """
    name = parse_dataset_name(manifest.dataset)
    known = find_dataset(workspace, name)
    if known and known.root != manifest.root and not rebind:
        raise ConflictError(
            f"Dataset '{name}' is already {known.root}; this is {manifest.root}. Pass --name to choose another name."
        )
    ref = DatasetRef(name, manifest.root, manifest.fingerprint)
    write_whole(workspace.manifest(name, ref.fingerprint), _to_bytes(manifest, ref), workspace.staging)
    current = {"name": ref.name, "root": ref.root, "fingerprint": ref.fingerprint}
    write_json(workspace.current(name), current, CURRENT_FORMAT, CURRENT_VERSION, workspace.staging)
    return ref


def _to_bytes(manifest: Manifest, ref: DatasetRef) -> bytes:
    """Encode a header with checksums of itself and of the rows below it, one per image."""
    rows = [
        [image.digest.hex(), image.path, image.label if manifest.exclusive else image.labels, image.split]
        for image in manifest.images
    ]
    body = "".join(f"{json.dumps(row)}\n" for row in rows).encode("ascii")
    header = {
        "dataset": manifest.dataset,
        "root": manifest.root,
        "fingerprint": ref.fingerprint,
        "classes": manifest.classes,
        "exclusive": manifest.exclusive,  # one label a row, else a list of labels
        "rows_sha256": hashlib.sha256(body).hexdigest(),
        "num_files": manifest.num_files,
        "num_duplicates": manifest.num_duplicates,
        "rejected": [[rejected.path, rejected.reason] for rejected in manifest.rejected],
        "notes": manifest.notes,
    }
    return f"{json.dumps(sealed(header, FORMAT, VERSION))}\n".encode("ascii") + body


def find_dataset(workspace: Workspace, name: str) -> DatasetRef | None:
    """Read what is current of a dataset; None if it is not known, DamagedError if the file lacks something."""
    path = workspace.current(name)
    if not path.is_file():
        return None
    current = read_json(path, CURRENT_FORMAT, CURRENT_VERSION)
    try:
        return DatasetRef(current["name"], current["root"], current["fingerprint"])
    except KeyError as error:
        raise DamagedError(f"{path} is damaged: it lacks {error}. Run `headstart plan` again.") from error


def list_names(workspace: Workspace) -> list[str]:
    """The name of every known dataset, also of one that cannot be read."""
    return sorted(path.parent.name for path in workspace.datasets.glob("*/current.json"))


def list_datasets(workspace: Workspace) -> list[DatasetRef]:
    """Every known dataset, by name."""
    return [ref for name in list_names(workspace) if (ref := find_dataset(workspace, name))]


def read_manifest(workspace: Workspace, name: str, fingerprint: str | None = None) -> Manifest:
    """Read a dataset's current manifest, or an earlier one; what this process has read already is not read again.

    Raises
    ------
    NotFoundError
        There is no such dataset or manifest.
    DamagedError
        The file does not hold what its fingerprint says.
    """
    if fingerprint is None:
        ref = find_dataset(workspace, name)
        if ref is None:
            known = ", ".join(ref.name for ref in list_datasets(workspace)) or "none yet"
            raise NotFoundError(f"There is no dataset '{name}'. Known: {known}.")
        fingerprint = ref.fingerprint
    path = workspace.manifest(name, fingerprint)
    try:
        status = path.stat()
    except OSError:
        return check_manifest(path, fingerprint)  # says what is wrong
    return _remembered(path, fingerprint, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=2)  # the steps of a run share one; a comparison with an earlier one needs both
def _remembered(path: Path, fingerprint: str, written: tuple[int, ...]) -> Manifest:
    """Keep what was proven in memory, where damage to the file cannot reach it; a file that changed is read again."""
    return check_manifest(path, fingerprint)


def check_manifest(path: Path, fingerprint: str) -> Manifest:
    """Read every byte of a manifest, whatever was read before; DamagedError unless it has this fingerprint."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError as error:
        raise NotFoundError(f"Dataset '{path.parent.name}' has no manifest {fingerprint}.") from error
    header = unsealed(parse_json(head, path), FORMAT, VERSION, path)
    manifest = _from_lines(header, body.splitlines(), path)
    intact = hashlib.sha256(body).hexdigest() == header.get("rows_sha256")
    if not (intact and fingerprint == header.get("fingerprint") == manifest.fingerprint):
        raise DamagedError(f"{path} is damaged: its content has another fingerprint. Run `headstart plan` again.")
    return manifest


def _from_lines(header: dict[str, Any], lines: list[bytes], path: Path) -> Manifest:
    try:
        rows = [json.loads(line) for line in lines]
        exclusive = header.get("exclusive", True)  # earlier versions had no other kind
        return Manifest(
            dataset=header["dataset"],
            root=header["root"],
            classes=tuple(header["classes"]),
            images=tuple(
                Image(bytes.fromhex(row[0]), row[1], (row[2],) if exclusive else tuple(row[2]), row[3]) for row in rows
            ),
            rejected=tuple(Rejected(*pair) for pair in header["rejected"]),
            num_files=header["num_files"],
            num_duplicates=header["num_duplicates"],
            notes=tuple(header["notes"]),
            exclusive=exclusive,
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DamagedError(f"{path} is damaged ({error}). Run `headstart plan` again.") from error
