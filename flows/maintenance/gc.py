"""`headstart gc`: what no dataset and no model needs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from flows.features.backbone import engine_id, list_backbones
from flows.prediction.files import classifier_engine_id
from flows.requests import GcRequest
from flows.versions.promote import list_heads
from pipeline.errors import NotFoundError
from storage.jobs.folder import list_folders, read_asked
from storage.maintenance.garbage import Garbage, collect
from storage.models.serving import find_serving, serving_version
from storage.models.versions import list_models
from storage.workspace import Workspace


@dataclass(frozen=True, slots=True)
class GarbageRow:
    """A file or folder that nothing needs, or a shard in which nothing needs some rows."""

    kind: str
    path: str  # within the workspace
    num_rows: int  # that are not needed
    num_bytes: int  # that come free
    written: str  # ISO 8601, UTC
    reason: str


@dataclass(frozen=True, slots=True)
class GcResult:
    """What nothing needs in a workspace, and whether it was removed."""

    workspace: str
    deleted: bool
    num_rows: int
    num_bytes: int
    garbage: tuple[GarbageRow, ...]  # the oldest first
    left_alone: tuple[str, ...]  # spaces that were not looked into, and why


def gc(request: GcRequest) -> GcResult:
    """Find, and with `delete` remove, what no dataset or model needs."""
    workspace = Workspace.open(request.workspace, create=False)
    engines = {engine_id(spec) for spec in list_backbones(workspace)}
    engines |= {classifier_engine_id(ref) for ref in list_models(workspace) if ref.record.files}
    superseded = _find_superseded(workspace, request.keep_versions) if request.keep_versions else []
    collected = collect(workspace, engines, request.limits(), request.delete, superseded)
    return GcResult(
        workspace=request.workspace,
        deleted=request.delete,
        num_rows=sum(item.num_rows for item in collected.garbage),
        num_bytes=sum(item.num_bytes for item in collected.garbage),
        garbage=tuple(_row(workspace, item) for item in collected.garbage),
        left_alone=tuple(collected.left_alone),
    )


def _row(workspace: Workspace, item: Garbage) -> GarbageRow:
    path = str(item.path.relative_to(workspace.root))
    written = datetime.fromtimestamp(item.written, UTC).isoformat(timespec="seconds")
    return GarbageRow(item.kind, path, item.num_rows, item.num_bytes, written, item.reason)


def _find_superseded(workspace: Workspace, num_kept: int) -> list[Path]:
    """Find the versions that have `num_kept` newer ones of their kind, head or fine-tuned network.

    The version that serves, the one before it, and those that jobs start from are never among them.
    """
    found = []
    wanted = _find_started_from(workspace)
    for name, refs in groupby(list_models(workspace), lambda ref: ref.name):
        heads = list_heads(workspace, name)
        networks = [ref for ref in refs if ref not in heads]
        serving = find_serving(workspace, name)
        wanted |= {(name, serving_version(workspace, name)), (name, serving.previous if serving else None)}
        found += [*heads[:-num_kept], *networks[:-num_kept]]
    return [Path(ref.path) for ref in found if (ref.name, ref.version) not in wanted]


def _find_started_from(workspace: Workspace) -> set[tuple[str, int | None]]:
    """Name and version of the heads that jobs start from."""
    wanted: set[tuple[str, int | None]] = set()
    for folder in list_folders(workspace):
        with suppress(NotFoundError):  # the job ended before its first document was written
            asked = read_asked(folder)
            wanted.add((asked.dataset, asked.head_version))
    return wanted
