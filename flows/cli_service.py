"""The commands of those who run headstart as a service."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Give the command line its commands."""
