"""What datasets, models and jobs need: pictures and manifests. Read strictly: what is damaged is an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.decision.finetuned import JobAsked
from pipeline.errors import NotFoundError
from pipeline.types import Digest
from storage.datasets.manifests import check_manifest, find_dataset
from storage.jobs.folder import list_folders, read_asked
from storage.models.versions import list_versions, read_ref
from storage.workspace import Workspace


class Needed(NamedTuple):
    digests: set[Digest]
    manifests: set[Path]


def read_needed(workspace: Workspace) -> Needed:
    """Read what is needed; raises NotFoundError or a ConflictError if anything of it cannot be read."""
    needed = Needed(set(), set())
    for name, fingerprint in _needed_manifests(workspace):
        path = workspace.manifest(name, fingerprint)
        needed.digests.update(image.digest for image in check_manifest(path, fingerprint).images)
        needed.manifests.add(path)
    return needed


def _needed_manifests(workspace: Workspace) -> Iterator[tuple[str, str]]:
    """Yield dataset and fingerprint of every current manifest, and of those that models and jobs were made from."""
    for folder in sorted(path for path in workspace.datasets.glob("*") if path.is_dir()):
        if ref := find_dataset(workspace, folder.name):
            yield ref.name, ref.fingerprint
    for folder in list_versions(workspace):
        record = read_ref(folder).record
        yield record.dataset, record.data.fingerprint
    for folder in list_folders(workspace):
        asked = find_asked(folder)
        if asked and workspace.manifest(asked.dataset, asked.fingerprint).exists():  # else the job is garbage
            yield asked.dataset, asked.fingerprint


def find_asked(folder: Path) -> JobAsked | None:
    """Return what a job was asked to do; None for one that ended before it had begun, or is gone."""
    try:
        return read_asked(folder)
    except NotFoundError:
        return None
