"""The scan step: a folder or a table becomes a manifest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from flows.requests import ExtractRequest
from flows.stopwatch import stage
from pipeline.dataset.manifest import Picture, build_manifest
from pipeline.types import Digest, FileEntry, Rejected
from storage.datasets.digests import DigestMemory
from storage.datasets.folder import Listing, list_dataset
from storage.datasets.manifests import DatasetRef, write_manifest
from storage.datasets.names import dataset_name
from storage.datasets.table import is_table, list_table
from storage.workspace import Workspace

FILES_REMEMBERED_AT_ONCE = 4096  # how many must be read again if a first scan is killed, at most


def scan(workspace: Workspace, request: ExtractRequest, listing: Listing | None = None) -> DatasetRef:
    """Read a dataset's folder or table, or a listing of the folder's files, into a manifest.

    Unchanged files are not opened.
    """
    with stage("scan"):
        root, source, walked = _list_pictures(request.folder, listing)
        digests, unusable = _identify(workspace, root, walked.files, request.rehash)
        manifest = build_manifest(
            request.name or dataset_name(source),
            root,
            [Picture(entry, digests[entry.path]) for entry in walked.files if entry.path in digests],
            sorted([*walked.rejected, *unusable], key=lambda item: item.path),
            walked.notes,
            walked.exclusive,
        )
        return write_manifest(workspace, manifest, rebind=request.name is not None)


def _list_pictures(place: str, listing: Listing | None) -> tuple[str, str, Listing]:
    """List the pictures of a folder or a table; returns the folder, the source of its name, and the listing."""
    if is_table(place) and listing is None:
        table = Path(place).absolute()
        return str(table.parent.resolve()), table.stem, list_table(table)
    root = Path(place).resolve()
    return str(root), root.name, listing or list_dataset(root)


def _identify(
    workspace: Workspace, root: str, files: Sequence[FileEntry], rehash: bool
) -> tuple[dict[str, Digest], list[Rejected]]:
    """Find the digest of every file that is a picture; unchanged files are not opened."""
    memory = DigestMemory(workspace)
    known = memory.recall(root, files, rehash)
    unread: list[Rejected] = []
    if fresh := [entry for entry in files if entry.path not in known]:
        from pipeline.images.ahead import batched, identify_files

        for files_at_once in batched(fresh, FILES_REMEMBERED_AT_ONCE):
            seen_ns = time.time_ns()
            learned: dict[str, tuple[FileEntry, Digest | str]] = {}
            for entry, found in identify_files(root, files_at_once):
                if isinstance(found, bytes) or found.final:
                    learned[entry.path] = (entry, found if isinstance(found, bytes) else found.reason)
                else:
                    unread.append(Rejected(entry.path, found.reason))
            memory.remember(root, learned, seen_ns)
            known |= {path: found for path, (_, found) in learned.items()}
    digests = {path: found for path, found in known.items() if isinstance(found, bytes)}
    reasons = [Rejected(path, found) for path, found in known.items() if isinstance(found, str)]
    return digests, unread + reasons
