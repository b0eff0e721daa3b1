"""The only reader of the environment."""

from __future__ import annotations

import gc
import getpass
import os
from pathlib import Path
from shlex import quote

from pipeline.errors import UsageError

HOME_VARIABLE = "HEADSTART_HOME"


def workspace_root(option: Path | str | None) -> Path:
    """Choose the workspace: the option, else HEADSTART_HOME if it is set to anything, else the platform's data folder.

    Raises
    ------
    UsageError
        The option is empty text, probably from an unset variable. It would mean the current folder.
    """
    if option is not None:
        if not str(option).strip():
            raise UsageError("The workspace's name is empty. Name a folder, or leave --workspace out.")
        return Path(option)
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home)
    from platformdirs import user_data_path  # only here: 20 ms that a given workspace does not pay

    return user_data_path("headstart", appauthor=False)


def prefect_url() -> str | None:
    """Return the API of the Prefect server that PREFECT_API_URL names, None if it names none."""
    return os.environ.get("PREFECT_API_URL") or None


def workspace_option(workspace: Path | str) -> str:
    """Return the option that a command needs for this workspace, after a space; empty if it is the default one."""
    return "" if str(workspace) == str(workspace_root(None)) else f" --workspace {quote(str(workspace))}"


def environment_with(**changed: str) -> dict[str, str]:
    """Copy the environment for a process, with some variables changed."""
    return {**os.environ, **changed}


def visible_gpus() -> str | None:
    """Return what CUDA_VISIBLE_DEVICES says, None if it is not set."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def keras_home() -> Path:
    """Return the folder in which Keras keeps what it has downloaded."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


def user_name() -> str:
    """Return the name of the user who runs this, to be recorded with what they decide."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return f"user {os.getuid()}"


def shorten_startup() -> None:
    """Save a short command about a tenth of its time."""
    # the search for pydantic's plugins reads the metadata of every installed package
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    gc.set_threshold(50_000)  # importing makes many objects that stay; by default garbage is looked for after each 700
