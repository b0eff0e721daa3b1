"""Verification: whether everything in the workspace is as it was written.

What is derived and damaged moves to quarantine; the next run computes its rows again. The rest is reported. Shards are
looked for on disk; the catalog, which may be damaged itself, is compared with what was found there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConflictError, DamagedError, HeadstartError, NotFoundError
from pipeline.types import Progress, Space
from storage.datasets.digests import DigestMemory
from storage.datasets.manifests import DatasetRef, check_manifest, find_dataset
from storage.datasets.registrations import find_registration
from storage.disk.atomic import Staging
from storage.disk.locks import Usage, alone
from storage.features.catalog import Catalog, ShardRow
from storage.features.spaces import parse_space, read_space, write_space
from storage.jobs.folder import is_running, list_folders, read_asked, read_document
from storage.measurements import VERSIONS, list_measurements, read_measurement
from storage.models.engines import check_engine, list_engines, remove_engine
from storage.models.serving import serving_version
from storage.models.versions import check_bundle, list_names, list_versions, read_ref
from storage.predictions.ledger import LEDGER_FILE, list_ledgers, read_ledger_file
from storage.predictions.parts import list_parts, mend_part, read_part
from storage.sqlite import Database
from storage.workspace import Workspace

COMPUTE_AGAIN = "Run `headstart onboard` again: its rows are computed again."
NOTHING_LEFT = "Nothing is left to do."
LEFT = "It was left as it is."


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was written. Sentences, for people."""

    what: str  # "shard", "catalog", "manifest", ...
    path: str  # within the workspace
    problem: str
    done: str  # what was set right
    next: str  # what is left to do


class Verification:
    """One check of a whole workspace, and what it found.

    Attributes
    ----------
    findings
        What is not as it was written.
    checked
        Kind -> how many of it were looked at.
    spaces, datasets
        Those that can be used.

    Raises
    ------
    NotFoundError
        There is no workspace.
    ConflictError
        It cannot be read, or what is damaged cannot be moved away.
    """

    def __init__(self, root: str, progress: Progress) -> None:
        self.findings: list[Finding] = []
        self.checked: Counter[str] = Counter()
        self._progress = progress
        self.workspace = self._open(Path(os.path.abspath(root)))
        self.spaces: dict[str, Space] = {}
        self.datasets: list[DatasetRef] = []
        self._foreign: set[str] = set()  # spaces that another version made; nothing of them is judged
        self._taken: set[tuple[str, str]] = set()  # space, shard -> that went to quarantine

    def run(self) -> None:
        """Check everything there is."""
        try:
            self._check_spaces()
            self._check_catalog()
            self._check_digests()
            self._check_datasets()
            self._check_models()
            self._check_engines()
            self._check_records()
            self._check_jobs()
            self._check_predictions()
        except HeadstartError:
            raise
        except OSError as error:
            raise ConflictError(
                f"Cannot read {error.filename}: {error.strerror}. See that it can be read, then verify again."
            ) from error

    def _open(self, root: Path) -> Workspace:
        try:
            return Workspace.open(root, create=False)
        except DamagedError as error:
            self.workspace = Workspace(root, Staging(root / "staging"))
            if not self.workspace.catalog.exists():  # perhaps it is no workspace
                raise
            self._take_away("workspace", self.workspace.format_file, error, "It was written again.")
            return Workspace.open(root)

    def _check_spaces(self) -> None:
        folders = sorted(path for path in self.workspace.spaces.glob("*") if path.is_dir())
        shards = {folder.name: sorted(self.workspace.shards(folder.name)) for folder in folders}
        self._progress.start("verify shards", sum(map(len, shards.values())))
        try:
            for space_id, files in shards.items():
                usage = Usage(self.workspace.space(space_id))
                usage.begin()  # so that nothing is removed meanwhile
                if space := self._find_space(space_id, [path for _, path in files]):
                    self.spaces[space_id] = space
                    self._check_canary(space)
                    self._check_shards(space, files)
                usage.end()
        finally:
            self._progress.finish()

    def _find_space(self, space_id: str, shards: list[Path]) -> Space | None:
        """Read a space's descriptor; a damaged one is written again from one of the shards, which all hold it."""
        path = self.workspace.space_file(space_id)
        try:
            return read_space(self.workspace, space_id)
        except (DamagedError, NotFoundError) as error:
            problem = error
        except ConflictError as error:
            self._foreign.add(space_id)
            self._add("space", path, error, LEFT, "Use the headstart that wrote it.")
            return None
        space = self._find_described(space_id, shards)
        if space:
            if path.exists():
                self._take_away("space", path, problem, "It was written again from a shard.")
            else:
                self._add("space", path, problem, "It was written again from a shard.", NOTHING_LEFT)
            write_space(self.workspace, space)
        elif shards or path.exists():
            self._take_away("space", path.parent, problem, COMPUTE_AGAIN)
        return space

    def _find_described(self, space_id: str, shards: list[Path]) -> Space | None:
        from storage.features.shards import is_named_after_content, read_descriptor

        for path in shards:
            with suppress(ConflictError):
                if is_named_after_content(path):
                    return parse_space(read_descriptor(path), space_id, path)
        return None

    def _check_canary(self, space: Space) -> None:
        from storage.features.shards import open_shard, read_all

        path = self.workspace.canary(space.id)
        self.checked["canaries"] += path.exists()
        advice = (
            "The next run keeps its own: `headstart verify --recompute 100` tells whether this machine computes "
            "what is stored."
        )
        self._check_derived("canary", path, advice, lambda: read_all(open_shard(path, space)))

    def _check_shards(self, space: Space, files: list[tuple[str, Path]]) -> None:
        from storage.features.shards import is_named_after_content, open_shard, read_all

        for name, path in files:
            self._progress.advance(1)
            try:
                if not is_named_after_content(path):
                    raise DamagedError(f"{path} is damaged: its content does not match its name.")
                shard = open_shard(path, space)
                read_all(shard)
            except ConflictError as error:
                self._take_away("shard", path, error, COMPUTE_AGAIN)
                self._taken.add((space.id, name))
            else:
                self.checked["shards"] += 1
                self.checked["rows"] += shard.num_rows

    def _check_catalog(self) -> None:
        catalog = Catalog(self.workspace)
        done = "It was rebuilt from the shards."
        if not catalog.database.path.exists():
            if self.checked["shards"]:
                self._add("catalog", catalog.database.path, DamagedError("It is gone."), done, NOTHING_LEFT)
        elif not self._is_usable("catalog", catalog.database, lambda: catalog.check(self._find_fault), done):
            return
        for space in self.spaces.values():
            catalog.recover(space)

    def _check_digests(self) -> None:
        memory = DigestMemory(self.workspace)
        if memory.database.path.exists():
            done = "An empty one took its place: the next run reads every file."
            self._is_usable("digests", memory.database, memory.check, done)

    def _is_usable(self, what: str, database: Database, check: Callable[[], None], done: str) -> bool:
        """Set a damaged database aside; False for one that cannot be used and is not damaged, as of a newer version."""
        problem = _find_problem(check)
        if isinstance(problem, DamagedError):
            database.replace(lambda: _find_problem(check) is None)
            self._add(what, database.path, problem, done, NOTHING_LEFT)
        elif problem:
            self._add(what, database.path, problem, LEFT, "See that it can be used, then verify again.")
            return False
        return True

    def _find_fault(self, space_id: str, row: ShardRow) -> str | None:
        """Compare what the catalog says of a shard with the shard; the values may be of any type."""
        from storage.features.shards import open_shard

        if space_id in self._foreign or (space_id, row.name) in self._taken:
            return None
        if fault := row.find_fault():
            return fault
        path = self.workspace.shard(space_id, row.name)
        if space_id not in self.spaces or not path.is_file():
            return "is not on disk"
        shard = open_shard(path, self.spaces[space_id])
        return None if row == ShardRow.of(path, shard) else "holds something else"

    def _check_datasets(self) -> None:
        for folder in sorted(path for path in self.workspace.datasets.glob("*") if path.is_dir()):
            name = folder.name
            advice = f"Remove the file and run `headstart plan DIR --name {name}`."
            self._judge("dataset", self.workspace.current(name), advice, self._check_dataset, name)
            again = f"Onboard it once more, with the same options: headstart onboard DIR --name {name}"
            self._judge("onboarded", self.workspace.onboarded(name), again, find_registration, self.workspace, name)
            for path in sorted(folder.glob("*.jsonl")):
                self.checked["manifests"] += 1
                self._judge("manifest", path, advice, check_manifest, path, path.stem)

    def _check_dataset(self, name: str) -> None:
        if ref := find_dataset(self.workspace, name):
            with suppress(DamagedError):  # the manifest is a finding of its own
                check_manifest(self.workspace.manifest(name, ref.fingerprint), ref.fingerprint)
                self.datasets.append(ref)

    def _check_models(self) -> None:
        advice = "Restore it from a copy, or remove the folder and run `headstart onboard` again."
        for folder in list_versions(self.workspace):
            self.checked["models"] += 1
            self._judge("model", folder, advice, lambda folder: check_bundle(read_ref(folder)), folder)
        for name in list_names(self.workspace):
            advice = f"Say which version serves: headstart promote {name}@VERSION"
            self._judge("serving", self.workspace.serving(name), advice, _check_serving, self.workspace, name)

    def _check_engines(self) -> None:
        for folder in list_engines(self.workspace):
            self.checked["engines"] += 1
            if problem := _find_problem(check_engine, folder):
                remove_engine(self.workspace, folder.name)
                self._add("engine", folder, problem, "It was removed.", "It is compiled again when it is needed.")

    def _check_records(self) -> None:
        for kind in VERSIONS:
            for key in list_measurements(self.workspace, kind):
                self.checked["records"] += 1
                path, advice = self.workspace.measurement(kind, key), "It is made again when it is needed."
                self._check_derived("record", path, advice, read_measurement, self.workspace, kind, key)

    def _check_jobs(self) -> None:
        from storage.jobs.checkpoints import read_checkpoint

        for folder in list_folders(self.workspace):
            if is_running(self.workspace, folder.name):
                continue  # it looks after its files itself, and they come and go
            self.checked["jobs"] += 1
            if (asked := folder / "job.json").exists():  # else it ended before it had begun
                self._judge("job", asked, "It is written when the job is started again.", read_asked, folder)
            for name in ("status.json", "outcome.json"):
                self._check_derived(
                    "job", folder / name, "The job continues from its last checkpoint.", read_document, folder / name
                )
            for path in sorted(folder.glob("checkpoints/*/*.h5")):
                self.checked["checkpoints"] += 1
                self._check_derived("checkpoint", path, "The job continues from the one before.", read_checkpoint, path)

    def _check_predictions(self) -> None:
        for place in list_ledgers(self.workspace):
            with alone(place) as free:
                if not free:
                    continue  # its user reads all of it, and mends what is damaged
                self.checked["ledgers"] += 1
                file = place / LEDGER_FILE
                self._check_derived("ledger", file, "The next run writes it again.", read_ledger_file, file)
                for path in list_parts(place):
                    self._check_predictions_in(path)

    def _check_predictions_in(self, path: Path) -> None:
        self.checked["prediction parts"] += 1
        problem = _find_problem(read_part, path)
        if isinstance(problem, DamagedError):
            done = f"It moved to {self._inside(mend_part(self.workspace, path))}; its intact rows stay."
            advice = "Run `headstart predict-batch` again: pictures that are still there are predicted again."
            self._add("predictions", path, problem, done, advice)
        elif problem:
            self._add("predictions", path, problem, LEFT, "See that it can be used, then verify again.")

    def _check_derived(
        self, what: str, path: Path, advice: str, check: Callable[..., object], *arguments: object
    ) -> None:
        """Move a damaged file to quarantine; its next use makes it again."""
        problem = _find_problem(check, *arguments) if path.exists() else None
        if problem and path.exists():  # a job may start at any moment
            self._take_away(what, path, problem, advice)

    def _judge(self, what: str, path: Path, advice: str, check: Callable[..., object], *arguments: object) -> None:
        """Report what cannot be derived again; only its owner can set it right."""
        if problem := _find_problem(check, *arguments):
            self._add(what, path, problem, LEFT, advice)

    def _take_away(self, what: str, path: Path, problem: HeadstartError, advice: str) -> None:
        """Move what can be derived again to quarantine; what is not damaged and cannot be used stays."""
        if not isinstance(problem, DamagedError | NotFoundError):
            self._add(what, path, problem, LEFT, "See that it can be used, then verify again.")
            return
        kept = self.workspace.set_aside(path)
        self._add(what, path, problem, f"It moved to {self._inside(kept)}.", advice)

    def _add(self, what: str, path: Path, problem: HeadstartError, done: str, advice: str) -> None:
        sentence = str(problem).removeprefix(f"{path} ").removeprefix("is damaged: ")
        self.findings.append(Finding(what, self._inside(path), sentence, done, advice))

    def _inside(self, path: Path) -> str:
        return str(path.relative_to(self.workspace.root))


def _check_serving(workspace: Workspace, name: str) -> None:
    version = serving_version(workspace, name)
    if version and not workspace.model(name, version).is_dir():
        raise NotFoundError(f"It names version {version}, which is gone.")


def _find_problem(check: Callable[..., object], *arguments: object) -> HeadstartError | None:
    try:
        check(*arguments)
    except HeadstartError as error:
        return error
    except OSError as error:
        return ConflictError(f"cannot be read: {error.strerror or error}.")
    return None
