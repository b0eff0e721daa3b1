"""Connect: load, compute, save; as plain steps, as Prefect jobs, and from the command line."""

import os

from flows.installed import check_names

check_names()

# Prefect reads its settings when it is imported, so this comes before any module here can: no telemetry.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
