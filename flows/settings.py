"""The only reader of the environment."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "HEADSTART_HOME"


def workspace_root(option: Path | str | None) -> Path:
    """Choose the workspace: the option, else HEADSTART_HOME, else the platform's data folder."""
    if option is not None:
        return Path(option)
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home)
    from platformdirs import user_data_path  # only here: 20 ms that a given workspace does not pay

    return user_data_path("headstart", appauthor=False)
