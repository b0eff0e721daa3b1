"""JSON documents that name their format and hold a checksum of their content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ConflictError, DamagedError, NotFoundError
from pipeline.fingerprint import fingerprint
from storage.disk.atomic import Staging, write_whole


def to_json(value: Mapping[str, Any], format: str, version: int) -> bytes:
    """Encode a sealed document; in ASCII, so that undecodable file names survive."""
    document = sealed(value, format, version)
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode("ascii")


def sealed(value: Mapping[str, Any], format: str, version: int) -> dict[str, Any]:
    """Add the format, the version and a checksum of everything to a document."""
    if taken := {"format", "version", "checksum"} & value.keys():
        raise ValueError(f"{taken} of a document are set here, not by the caller")
    document = {"format": format, "version": version, **value}
    as_read = json.loads(json.dumps(document, allow_nan=False))
    return {**document, "checksum": fingerprint(as_read)}


def write_json(path: Path, value: Mapping[str, Any], format: str, version: int, staging: Staging | None = None) -> None:
    """Write a document whole, as `atomic.write_whole` does."""
    write_whole(path, to_json(value, format, version), staging)


def read_json(path: Path, format: str, version: int) -> dict[str, Any]:
    """Read a document that `write_json` wrote.

    Raises
    ------
    NotFoundError
        There is no such file.
    DamagedError
        It is not JSON of this format.
    ConflictError
        It has this format in a version that cannot be read here, or the file cannot be opened.
    """
    try:
        document = parse_json(path.read_bytes(), path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"There is no {path}.") from error
    except OSError as error:
        raise ConflictError(f"Cannot read {path}: {error.strerror}.") from error
    return unsealed(document, format, version, path)


def read_value(path: Path, format: str, version: int) -> dict[str, Any]:
    """Read the object under "value" of a document; raises as `read_json` does."""
    value = read_json(path, format, version).get("value")
    if not isinstance(value, dict):
        raise DamagedError(f"{path} is damaged: it holds no value.")
    return value


def unsealed(document: Mapping[str, Any], format: str, version: int, path: Path) -> dict[str, Any]:
    """Check what `sealed` added; returns the document without its checksum."""
    content = {key: value for key, value in document.items() if key != "checksum"}
    if "checksum" in document and document["checksum"] != fingerprint(content):
        raise DamagedError(f"{path} is damaged: its content does not match its checksum.")
    check_format(content, format, version, path)
    if "checksum" not in document:
        raise DamagedError(f"{path} is damaged: its checksum is missing.")
    return content


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """Parse a JSON object; DamagedError if the bytes are not one."""
    try:
        document = json.loads(data)
    except ValueError as error:  # also bytes that are not UTF-8
        raise DamagedError(f"{path} is damaged: it is not JSON ({error}).") from error
    if not isinstance(document, dict):
        raise DamagedError(f"{path} is damaged: it holds no JSON object.")
    return document


def check_format(found: Mapping[str, Any], format: str, version: int, path: Path) -> None:
    """Refuse what another program, or another version of this one, has written."""
    if found.get("format") != format:
        raise DamagedError(f"{path} has format {found.get('format')!r}; wanted {format!r}.")
    if not isinstance(found.get("version"), int):
        raise DamagedError(f"{path} is damaged: it names no version of {format}.")
    if found["version"] != version:
        raise ConflictError(
            f"{path} has {format} version {found['version']}; this headstart reads version {version}. "
            "Use the headstart that wrote it, or another workspace."
        )
