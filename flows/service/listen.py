"""Listen for onboarding jobs: `python -P -m flows.service.listen`, or with DIR run one and leave.

While it listens, `headstart onboard DIR --submit` and the Prefect UI hand it work. It needs the server that
PREFECT_API_URL names; without one, running a single folder starts a temporary server.
"""

from __future__ import annotations

import sys

from prefect.types.entrypoint import EntrypointType

from flows.requests import OnboardRequest
from flows.service.flows import onboard


def main(arguments: list[str]) -> None:
    """Serve the flow, or run it once on a folder."""
    if not arguments:
        # by module, not by file: the run's process must find this package whatever its folder is
        onboard.serve(
            name="onboard",
            description="Bring a folder of pictures to a trained model.",
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
    elif len(arguments) == 1 and not arguments[0].startswith("-"):
        onboard(OnboardRequest(folder=arguments[0]))
    else:
        sys.exit("usage: python -P -m flows.service.listen [DIR]")


if __name__ == "__main__":
    main(sys.argv[1:])
