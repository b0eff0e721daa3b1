"""How the service looks on a terminal: what a server has, and what is amiss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.render import say

RUNS_AT_A_TIME = {"cpu": 2, "gpu": 1}  # of a worker on a machine of modest size: onboarding may take some gigabytes


def deployed(document: Mapping[str, Any]) -> None:
    """Print what a server has now, and how its workers are started."""
    for row in document["pools"]:
        say(f"pool {row['name']}: {row['done']}")
    for row in document["deployments"]:
        limit = f", {row['limit']} at a time" if row["limit"] else ""
        say(f"deployment {row['name']} on {row['pool']}{limit}: {row['done']}")
        for schedule in row["schedules"]:
            say(f"  schedule {schedule['slug']}: {schedule['when']}{'' if schedule['active'] else ', paused'}")
    for row in document["automations"]:
        say(f"automation {row['name']}: {row['done']}")
    for pool in document["pools"]:
        limit = RUNS_AT_A_TIME.get(pool["name"], 1)
        say(f"next: prefect worker start --pool {pool['name']} --limit {limit}")
