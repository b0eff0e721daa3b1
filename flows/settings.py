"""The only reader of the environment."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import UsageError

HOME_VARIABLE = "HEADSTART_HOME"


def workspace_root(option: Path | str | None) -> Path:
    """Choose the workspace: the option, else HEADSTART_HOME, else the platform's data folder."""
    if option is not None:
        return _named(option, "--workspace")
    if HOME_VARIABLE in os.environ:
        return _named(os.environ[HOME_VARIABLE], HOME_VARIABLE)
    from platformdirs import user_data_path  # only here: 20 ms that a given workspace does not pay

    return user_data_path("headstart", appauthor=False)


def _named(value: Path | str, source: str) -> Path:
    """Refuse an empty name, which would mean the current folder: it comes from an unset variable."""
    if not str(value).strip():
        raise UsageError(f"{source} is empty. Name a folder, or leave it out.")
    return Path(value)
