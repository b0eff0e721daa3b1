"""Is everything in the workspace as it was written?

Damage in what is derived is set right: what was damaged is in quarantine afterwards, and its rows are computed again
by the next run. The rest is reported. The disk is walked for shards; the catalog, which may be damaged itself, is
compared with what was found there.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
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
from storage.jobs.folder import is_running, list_folders, read_document
from storage.measurements import VERSIONS, list_measurements, read_measurement
from storage.models.engines import check_engine, list_engines, remove_engine
from storage.models.serving import serving_version
from storage.models.versions import check_bundle, list_names, list_versions, read_ref
from storage.predictions.ledger import LEDGER_FILE, list_ledgers, read_ledger_file
from storage.predictions.parts import list_parts, mend_part, read_part
from storage.sqlite import checksum
from storage.workspace import Workspace

COMPUTE_AGAIN = "Run `headstart onboard` again: its rows are computed anew."
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
        self._rows: dict[tuple[str, str], int] = {}  # space, shard -> checksum of the row the catalog should have
        self._taken: defaultdict[str, list[str]] = defaultdict(list)  # space -> shards that went to quarantine

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
            if not self.workspace.catalog.exists():  # perhaps it is somebody else's
                raise
            self._take_away("workspace", self.workspace.format_file, error, "It was written anew.")
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
        """Read a space's descriptor; a damaged one is written anew from one of the shards, which all hold it."""
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
                self._take_away("space", path, problem, "It was written anew from a shard.")
            else:
                self._add("space", path, problem, "It was written anew from a shard.", NOTHING_LEFT)
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
        if not path.exists():
            return
        self.checked["canaries"] += 1
        if problem := _find_problem(lambda: read_all(open_shard(path, space))):
            self._take_away(
                "canary",
                path,
                problem,
                "The next run keeps its own: `headstart verify --recompute 100` tells whether this machine computes "
                "what is stored.",
            )

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
                self._taken[space.id].append(name)
            else:
                self._rows[space.id, name] = checksum(name, shard.num_rows, shard.num_bytes, shard.keys.tobytes())
                self.checked["shards"] += 1
                self.checked["rows"] += shard.num_rows

    def _check_catalog(self) -> None:
        catalog = Catalog(self.workspace)
        if not catalog.path.exists():
            if self._rows:
                gone = DamagedError("It is gone.")
                self._add("catalog", catalog.path, gone, "It was built anew from the shards.", NOTHING_LEFT)
        else:
            with suppress(DamagedError):  # then all of it is built anew
                for space_id, names in self._taken.items():
                    catalog.remove(self.spaces[space_id], names)

            def check() -> None:
                catalog.check(self._find_fault)

            if not self._is_usable("catalog", catalog, check, "It was built anew from the shards."):
                return
        for space in self.spaces.values():
            catalog.recover(space)

    def _check_digests(self) -> None:
        memory = DigestMemory(self.workspace)
        if memory.path.exists():
            self._is_usable("digests", memory, memory.check, "It was begun anew: the next run reads every file.")

    def _is_usable(self, what: str, database: Catalog | DigestMemory, check: Callable[[], None], done: str) -> bool:
        """Set a damaged database aside; False for one that cannot be used and is not damaged, as of a newer version."""
        problem = _find_problem(check)
        if isinstance(problem, DamagedError):
            database.set_aside(lambda: _find_problem(check) is None)
            self._add(what, database.path, problem, done, NOTHING_LEFT)
        elif problem:
            self._add(what, database.path, problem, LEFT, "See that it can be used, then verify again.")
            return False
        return True

    def _find_fault(self, space_id: str, row: ShardRow) -> str | None:
        """Compare what the catalog says of a shard with the shard; the values may be of any type."""
        if space_id in self._foreign:
            return None
        wanted = self._rows.get((space_id, row.name))
        if wanted is None and (committed := self._read_row(space_id, row.name)):  # since we looked
            wanted = checksum(*committed)
        if wanted is None:
            return "is not on disk"
        return None if wanted == checksum(*row) else "holds something else"

    def _read_row(self, space_id: str, name: str) -> ShardRow | None:
        from storage.features.shards import open_shard

        files = dict(self.workspace.shards(space_id)) if space_id in self.spaces else {}
        if name not in files:
            return None
        shard = open_shard(files[name], self.spaces[space_id])
        return ShardRow(name, shard.num_rows, shard.num_bytes, shard.keys.tobytes())

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
            self._judge("model", folder, advice, _check_model, folder)
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
                if problem := _find_problem(read_measurement, self.workspace, kind, key):
                    path = self.workspace.measurement(kind, key)
                    self._take_away("record", path, problem, "It is made again when it is needed.")

    def _check_jobs(self) -> None:
        from storage.jobs.checkpoints import read_checkpoint

        for folder in list_folders(self.workspace):
            if is_running(self.workspace, folder.name):
                continue  # it looks after its files itself, and they come and go
            self.checked["jobs"] += 1
            if (asked := folder / "job.json").exists():  # else it ended before it had begun
                self._judge("job", asked, "It is written anew when the job is started again.", read_document, asked)
            for name in ("status.json", "outcome.json"):
                self._check_derived("job", folder / name, "The job goes on from its last checkpoint.", read_document)
            for path in sorted(folder.glob("checkpoints/*/*.h5")):
                self.checked["checkpoints"] += 1
                self._check_derived("checkpoint", path, "The job goes on from the one before.", read_checkpoint)

    def _check_predictions(self) -> None:
        for place in list_ledgers(self.workspace):
            with alone(place) as free:
                if not free:
                    continue  # who works with it reads all of it, and mends what is damaged
                self.checked["ledgers"] += 1
                file = place / LEDGER_FILE
                if file.exists() and (problem := _find_problem(read_ledger_file, place)):
                    self._take_away("ledger", file, problem, "The next run writes it anew.")
                for path in list_parts(place):
                    self._check_predictions_in(path)

    def _check_predictions_in(self, path: Path) -> None:
        self.checked["prediction parts"] += 1
        problem = _find_problem(read_part, path)
        if isinstance(problem, DamagedError):
            done = f"It moved to {self._inside(mend_part(self.workspace, path))}; its intact rows stay."
            advice = "Run `headstart predict-batch` again: pictures that are still there are predicted anew."
            self._add("predictions", path, problem, done, advice)
        elif problem:
            self._add("predictions", path, problem, LEFT, "See that it can be used, then verify again.")

    def _check_derived(self, what: str, path: Path, advice: str, read: Callable[[Path], object]) -> None:
        if path.exists() and (problem := _find_problem(read, path)) and path.exists():  # a job may start at any moment
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


def _check_model(folder: Path) -> None:
    check_bundle(read_ref(folder))


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
