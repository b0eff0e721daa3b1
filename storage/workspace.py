"""The one folder everything is written to, and the names in it; no other module joins these paths."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from pipeline.errors import DamagedError, NotFoundError
from storage.disk.atomic import REAL, Fs, Staging, explained, make_folder, write_once, write_whole
from storage.disk.documents import read_json, to_json

FORMAT = "headstart.workspace"
VERSION = 1

log = logging.getLogger(__name__)

Value = TypeVar("Value")

_SHARD_NAME = re.compile(r"([0-9a-f]{64})\.h5")


class _Place:
    """An attribute that is a path in the workspace."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, workspace: Workspace, owner: type[Workspace]) -> Path:
        return workspace.root / self._name


@dataclass(frozen=True, slots=True)
class Workspace:
    root: Path  # absolute
    staging: Staging

    format_file = _Place("FORMAT.json")
    quarantine = _Place("quarantine")
    catalog = _Place("catalog.db")
    digests = _Place("digests.db")
    spaces = _Place("spaces")
    datasets = _Place("datasets")
    models = _Place("models")
    engines = _Place("engines")
    jobs = _Place("jobs")
    predictions = _Place("predictions")

    @classmethod
    def open(cls, root: Path | str, *, create: bool = True, fs: Fs = REAL) -> Workspace:
        """Open a workspace; with `create`, make it if it is missing, and prove that it can be written.

        Raises
        ------
        NotFoundError
            There is no workspace and `create` is off.
        ConflictError
            It cannot be written, or a newer headstart made it.
        """
        root = Path(os.path.abspath(root))
        workspace = cls(root, Staging(root / "staging", fs))
        if create:
            workspace._make()
        elif not workspace.format_file.is_file():
            raise NotFoundError(f"{root} is no workspace. Name one with --workspace or HEADSTART_HOME.")
        read_json(workspace.format_file, FORMAT, VERSION)
        return workspace

    def _make(self) -> None:
        advice = "Choose a folder that can be written with --workspace or HEADSTART_HOME."
        with explained(self.root, advice):
            if not self.format_file.is_file():
                make_folder(self.root, self.staging.fs)
                write_once(self.format_file, to_json({"store_id": uuid4().hex}, FORMAT, VERSION), self.staging)
            self._prove_writable()

    def _prove_writable(self) -> None:
        # Asking (os.access) is not enough: root is told yes on a read-only file system.
        make_folder(self.staging.folder, self.staging.fs)
        probe = self.staging.folder / f".{uuid4().hex}.probe"
        os.close(self.staging.fs.open_exclusive(probe, 0o600))
        self.staging.fs.unlink(probe)

    def space(self, space_id: str) -> Path:
        return self.spaces / space_id

    def space_file(self, space_id: str) -> Path:
        return self.space(space_id) / "space.json"

    def canary(self, space_id: str) -> Path:
        return self.space(space_id) / "canary.h5"

    def shard(self, space_id: str, name: str) -> Path:
        return self.space(space_id) / name[:2] / f"{name}.h5"

    def shards(self, space_id: str) -> Iterator[tuple[str, Path]]:
        """Yield name and path of every shard on disk."""
        for folder in self.space(space_id).glob("[0-9a-f][0-9a-f]"):
            for path in folder.iterdir():
                if match := _SHARD_NAME.fullmatch(path.name):
                    yield match[1], path

    def claims(self, space_id: str) -> Path:
        return self.root / "claims" / space_id

    def current(self, dataset: str) -> Path:
        return self.datasets / dataset / "current.json"

    def onboarded(self, dataset: str) -> Path:
        return self.datasets / dataset / "onboarded.json"

    def manifest(self, dataset: str, fingerprint: str) -> Path:
        return self.datasets / dataset / f"{fingerprint}.jsonl"

    def measurements(self, kind: str) -> Path:
        return self.root / kind

    def measurement(self, kind: str, key: str) -> Path:
        return self.measurements(kind) / f"{key}.json"

    def model(self, name: str, version: int) -> Path:
        return self.models / name / str(version)

    def serving(self, name: str) -> Path:
        return self.models / name / "serving.json"

    def engine(self, engine_id: str) -> Path:
        return self.engines / engine_id

    def job(self, job_id: str) -> Path:
        return self.jobs / job_id

    def ledger(self, ledger_id: str) -> Path:
        return self.predictions / ledger_id

    def job_leftovers(self, job_id: str) -> list[Path]:
        """What only serves to continue a job."""
        return [path for name in ("checkpoints", "pixels") if (path := self.job(job_id) / name).is_dir()]

    def set_aside(self, path: Path) -> Path:
        """Move something that cannot be trusted to quarantine; nothing damaged is ever deleted."""
        kept = self._in_quarantine(path)
        with explained(path):
            make_folder(self.quarantine, self.staging.fs)
            self.staging.fs.rename(path, kept)
            self.staging.fs.fsync_path(self.quarantine)
        return kept

    def find_intact(self, path: Path, read: Callable[[Path], Value]) -> Value | None:
        """Read a file that need not be there; a damaged one moves to quarantine."""
        try:
            return read(path)
        except NotFoundError:
            return None
        except DamagedError as error:
            log.warning("%s It moved to %s.", error, self.set_aside(path))
            return None

    def keep_copy(self, path: Path, data: bytes) -> Path:
        """Keep a copy of something damaged in quarantine, where what is intact of it takes its place."""
        kept = self._in_quarantine(path)
        write_whole(kept, data, self.staging)
        return kept

    def _in_quarantine(self, path: Path) -> Path:
        return self.quarantine / f"{uuid4().hex[:8]}-{path.name}"
