"""Saved models: one folder (a bundle) per version, complete or absent, never changed afterwards.

Which version a name means, the one that serves, is in a small file beside them. It cannot be derived from anything, so
a damaged one is an error that names the way out: the newest version may be one that was found worse.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pipeline.errors import ConflictError, DamagedError, HeadstartError, NotFoundError
from pipeline.report.record import ModelRecord, ModelRef
from storage.datasets.names import parse_dataset_name
from storage.disk.atomic import explained, make_folder
from storage.disk.documents import read_json, write_json
from storage.disk.hashes import changed_files, hash_file, hash_files
from storage.disk.locks import alone
from storage.disk.staging import publish_folder, remove_at_once, scratch_folder
from storage.models.bundles import REPORT_FILE
from storage.workspace import Workspace

log = logging.getLogger(__name__)

FORMAT = "headstart.record"
VERSION = 1
RECORD = "record.json"
SERVING_FORMAT = "headstart.serving"
SERVING_VERSION = 1


class NewVersion:
    """A bundle in the making: fill `folder` and set `record`; `ref` is there once it is committed."""

    def __init__(self, folder: Path, render: Callable[[ModelRecord], str]) -> None:
        self.folder, self._render = folder, render
        self.record: ModelRecord | None = None
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
            record = replace(self.record, name=name, model_version=version, files=files)
            (self.folder / REPORT_FILE).write_text(self._render(record), encoding="utf-8")
            record = replace(record, files={**files, REPORT_FILE: hash_file(self.folder / REPORT_FILE)})
            write_json(self.folder / RECORD, record.to_json(), FORMAT, VERSION, workspace.staging)
            if publish_folder(self.folder, final, workspace.staging):  # else another process took the number
                self._ref = read_ref(final)


@contextmanager
def new_version(workspace: Workspace, name: str, render: Callable[[ModelRecord], str]) -> Iterator[NewVersion]:
    """Make the next version of a model; after an error in the block nothing of it remains.

    Parameters
    ----------
    render
        Makes the report of a record that has its version and the digests of all other files. It is called again if
        another process takes the number.

    >>> with new_version(workspace, "flowers", render_report) as version:  # doctest: +SKIP
    ...     save(version.folder / "model.keras")
    ...     version.record = record
    >>> version.ref.version  # doctest: +SKIP
    1
    """
    name = parse_dataset_name(name)
    with scratch_folder(workspace.staging) as folder:
        version = NewVersion(folder, render)
        yield version
        version._commit(workspace, name)


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


def get_model(workspace: Workspace, text: str) -> ModelRef:
    """Find a bundle by "name" (the version that serves), "name@3", or a path (anything with a "/").

    Raises
    ------
    NotFoundError
        There is none; the message offers the nearest names.
    DamagedError
        Which version serves cannot be known.
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
    wanted = number or str(serving_version(workspace, name))
    if wanted not in map(str, versions):
        known = ", ".join(map(str, versions))
        advice = "" if number else f" It served; choose another: headstart promote {name}@VERSION"
        raise NotFoundError(f"Model '{name}' has no version '{wanted}'. There are: {known}.{advice}")
    return read_ref(workspace.model(name, int(wanted)))


def find_by_request(workspace: Workspace, name: str, request: str) -> ModelRef | None:
    """Find the newest version that was made from the same request, a digest of all that determined it."""
    found = [ref for ref in _readable(workspace, name) if ref.record.request == request]
    return found[-1] if found else None


def list_models(workspace: Workspace) -> list[ModelRef]:
    """Every readable version, by name and number."""
    return [ref for name in list_names(workspace) for ref in _readable(workspace, name)]


def list_versions(workspace: Workspace) -> list[Path]:
    """The folder of every version, readable or not."""
    return [workspace.model(name, version) for name in list_names(workspace) for version in _versions(workspace, name)]


def check_bundle(ref: ModelRef) -> None:
    """Raise DamagedError unless every file is as it was when the model was saved."""
    files = ref.record.files
    if not files:
        raise DamagedError(f"{ref.path} is damaged: its record lists no files.")
    if changed := changed_files(Path(ref.path), files):
        raise DamagedError(f"{ref.path} is damaged: {', '.join(changed)} changed since it was saved. Train again.")


# ── which version serves ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Serving:
    """Which version of a model its name means, and why."""

    version: int
    reason: str
    gate: Mapping[str, Any] | None  # the comparison that it won, if it had one
    previous: int | None  # that served before
    since: str  # ISO 8601, UTC
    declined: Mapping[int, Declined] = field(default_factory=dict)  # versions that it was preferred to


@dataclass(frozen=True, slots=True)
class Declined:
    """Why a version does not replace the one that serves: nothing is decided again about it on the same data."""

    reason: str
    gate: Mapping[str, Any] | None
    data: str | None  # fingerprint of the manifest they were compared on; None: a person decided, whatever the data


def find_serving(workspace: Workspace, name: str) -> Serving | None:
    """Read which version was chosen to serve; None where none ever was: then it is the newest.

    Raises
    ------
    DamagedError
        The file is not as it was written.
    """
    path = workspace.serving(name)
    try:
        found = read_json(path, SERVING_FORMAT, SERVING_VERSION)["serving"]
        known = {int(version): Declined(**why) for version, why in found["declined"].items()}
        parts = (found["reason"], found["gate"], found["previous"], found["since"])
        return Serving(int(found["version"]), *parts, declined=known)
    except NotFoundError:
        return None
    except DamagedError as error:
        raise DamagedError(f"{error} {_advice(name)}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{path} is damaged: it lacks {error}. {_advice(name)}") from error


def serving_version(workspace: Workspace, name: str) -> int | None:
    """Tell which version a name means; None where there is none."""
    if serving := find_serving(workspace, name):
        return serving.version
    return max(_versions(workspace, name), default=None)


def promote(
    workspace: Workspace,
    name: str,
    version: int,
    reason: str,
    gate: Mapping[str, Any] | None = None,
    data: str | None = None,
    over: Iterable[int] = (),
) -> Serving:
    """Let a version serve from now on.

    Parameters
    ----------
    data
        Fingerprint of the manifest on which it was preferred to the version that served, if that decided.
    over
        Versions that it is preferred to whatever the data: a person says so.

    Raises
    ------
    NotFoundError
        There is no such version.
    """
    get_model(workspace, f"{name}@{version}")
    try:
        previous = serving_version(workspace, name)
    except DamagedError as error:
        log.warning("%s It moved to %s.", error, workspace.set_aside(workspace.serving(name)))
        previous = None
    before = previous if previous != version else None
    why = f"Version {version} was preferred to it."
    declined = {before: Declined(why, gate, data)} if before and data else {}
    declined |= {other: Declined(why, None, None) for other in over if other != version}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    serving = Serving(version, reason, gate, before, now, declined)
    _write_serving(workspace, name, serving)
    return serving


def decline(workspace: Workspace, name: str, version: int, why: Declined) -> None:
    """Remember that a version was compared with the one that serves, and does not replace it."""
    serving = find_serving(workspace, name)
    if serving is None:
        raise RuntimeError("nothing was chosen to serve yet")
    _write_serving(workspace, name, replace(serving, declined={**serving.declined, version: why}))


@contextmanager
def one_at_a_time(workspace: Workspace, name: str) -> Iterator[None]:
    """Wait until nobody else makes or promotes a version of a model; ends with the process, however that ends.

    Where the file system has no locks nobody waits: two may then train the same version, and both are kept.
    """
    folder = workspace.models / parse_dataset_name(name)
    with explained(folder):
        make_folder(folder, workspace.staging.fs)
    with ExitStack() as held:
        with suppress(ConflictError):
            held.enter_context(alone(folder, wait=True))
        yield


def remove_version(workspace: Workspace, folder: Path) -> None:
    """Remove a version; not while another is being made or promoted, nor the one that serves."""
    with explained(folder), alone(folder.parent) as free:
        if free and folder != workspace.model(folder.parent.name, serving_version(workspace, folder.parent.name) or 0):
            remove_at_once(folder, workspace.staging)


def _write_serving(workspace: Workspace, name: str, serving: Serving) -> None:
    path, document = workspace.serving(name), {"serving": asdict(serving)}
    write_json(path, document, SERVING_FORMAT, SERVING_VERSION, workspace.staging)


def _advice(name: str) -> str:
    return f"Say which version serves: headstart promote {name}@VERSION"


# ── what there is ────────────────────────────────────────────────────────────────────────────────


def list_names(workspace: Workspace) -> list[str]:
    """The name of every model."""
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
    known = list_names(workspace)
    if not known:
        return "There are no models yet: run `headstart onboard`."
    close = get_close_matches(name, known, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(known)}."
