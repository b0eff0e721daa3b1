"""Folders whose files are listed with their SHA-256, so that a changed one is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path


def hash_files(folder: Path) -> dict[str, str]:
    """Return path within the folder -> SHA-256 in hex, for every file below it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}


def changed_files(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Name the listed files that are gone or hold other bytes."""
    return [
        name for name, digest in digests.items() if not (folder / name).is_file() or hash_file(folder / name) != digest
    ]


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
