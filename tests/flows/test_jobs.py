"""The Prefect flow, on the session's real ephemeral server."""

import pytest

from flows import steps
from flows.jobs import OnboardParams, onboard

pytestmark = [pytest.mark.prefect, pytest.mark.heavy]


def test_the_flow_does_what_the_command_line_does(prefect_server, tiny_dataset, tmp_path):
    folder = str(tiny_dataset())
    by_flow = onboard(OnboardParams(folder=folder, workspace=str(tmp_path / "flow")))
    by_steps = steps.onboard(steps.Request(folder, str(tmp_path / "steps")))

    for document in (by_flow, by_steps):
        del document["seconds"], document["workspace"], document["model"]["path"]
    assert by_flow == by_steps


def test_every_step_is_a_task_run_of_the_flow(prefect_server, tiny_dataset, tmp_path):
    from prefect.client.orchestration import get_client

    onboard(OnboardParams(folder=str(tiny_dataset()), workspace=str(tmp_path / "work")))

    with get_client(sync_client=True) as client:
        names = {run.name.rsplit("-", 1)[0] for run in client.read_task_runs()}
    assert {"scan", "plan_dataset", "extract", "train"} <= names


def test_bad_parameters_are_refused_before_a_run_exists(prefect_server):
    from prefect.exceptions import ParameterTypeError

    with pytest.raises(ParameterTypeError, match="unknown_field"):
        onboard({"folder": "pictures", "unknown_field": 1})
