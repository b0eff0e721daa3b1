"""Hand a job to a Prefect server and return at once. Prefect is imported here, in flows.jobs and in flows.serve."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from flows.steps import Request
from pipeline.errors import NotFoundError, ServerUnreachableError

DEPLOYMENT = "onboard/onboard"


def submit_onboard(request: Request) -> dict[str, Any]:
    """Create a run of the onboard deployment.

    Raises
    ------
    ServerUnreachableError
        When no server is named or none answers; nothing was submitted then.
    NotFoundError
        When the server does not know the deployment.
    """
    from prefect.client.orchestration import get_client
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        raise ServerUnreachableError(
            "No Prefect server is named. Set PREFECT_API_URL, or leave --submit out to run here and now."
        )
    with get_client(sync_client=True) as client:
        if problem := client.api_healthcheck():
            raise ServerUnreachableError(
                f"No Prefect server answers at {url} ({problem}). Start it, or leave --submit out to run here and now."
            )
    parameters = asdict(request) | {
        "folder": os.path.abspath(request.folder),
        "workspace": os.path.abspath(request.workspace),
    }
    if request.weights and os.path.isfile(request.weights):
        parameters["weights"] = os.path.abspath(request.weights)
    try:
        run: Any = run_deployment(DEPLOYMENT, parameters={"params": parameters}, timeout=0, as_subflow=False)
    except ObjectNotFound as error:
        raise NotFoundError(
            f"The server at {url} has no deployment '{DEPLOYMENT}'. Serve it with: python -m flows.serve"
        ) from error
    return {"run": str(run.id), "name": run.name, "state": run.state.name if run.state else "unknown", "server": url}
