"""The commands of those who run headstart as a service."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.options import JsonOption


def add_to(app: typer.Typer) -> None:
    """Give the command line its commands."""
    app.command()(deploy)


def deploy(
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="PATH", help="Deployments and schedules (default: our own prefect.yaml)."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Set up the Prefect server that PREFECT_API_URL names: pools, deployments, schedules, automations. Safe to repeat."""
    from flows import render, render_service
    from flows.server import get_server

    url = get_server()
    from flows.deploy import deploy_all

    document = deploy_all(url, file)
    render.json_object(document) if json else render_service.deployed(document)
