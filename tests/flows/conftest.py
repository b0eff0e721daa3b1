"""A first run of the whole story, once for all tests of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.requests import OnboardRequest
from tests import factories


@pytest.fixture(scope="session")
def first_run(once):
    """A dataset of 3 classes of 8 pictures, onboarded: `folder`, `workspace`, `document`, `manifest`.

    To be read; what changes anything takes `again`.
    """

    def build(root):
        from storage.datasets.manifests import read_manifest
        from storage.workspace import Workspace

        folder, workspace = factories.write_dataset(root / "shapes"), root / "workspace"
        factories.age(folder)
        document = factories.onboard(OnboardRequest(str(folder), str(workspace)))
        manifest = read_manifest(Workspace.open(workspace), "shapes")
        return SimpleNamespace(folder=folder, workspace=workspace, document=document, manifest=manifest)

    return once("first", build)


@pytest.fixture
def again(first_run, tmp_path):
    """Copies of the onboarded dataset and its workspace, to be changed: `folder`, `workspace`; `document` as it was."""
    folder, workspace = tmp_path / "shapes", tmp_path / "workspace"
    shutil.copytree(first_run.folder, folder)
    shutil.copytree(first_run.workspace, workspace, copy_function=_link_or_copy)
    return SimpleNamespace(folder=folder, workspace=workspace, document=first_run.document)


@pytest.fixture
def warm_workspace(first_run, workspace):
    """A workspace that holds nothing but the compiled backbone."""
    shutil.copytree(first_run.workspace / "engines", workspace / "engines", copy_function=_link_or_copy)
    return workspace


def _link_or_copy(source, target):
    """Files that are never written again need no copy."""
    if Path(source).suffix in (".bin", ".keras", ".h5"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory):
    """The session's real, ephemeral Prefect server: 15 to 20 seconds, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
        from prefect.testing.utilities import prefect_test_harness

        # heartbeats cost a second a flow run
        with (
            prefect_test_harness(server_startup_timeout=120),
            temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        ):
            yield


@pytest.fixture(scope="session")
def deployed(prefect_server):
    """What `headstart deploy` made on the session's server: its result, with `server`, the URL."""
    from prefect.settings import PREFECT_API_URL

    from flows.service.deploy import deploy_all

    return deploy_all(PREFECT_API_URL.value())


@pytest.fixture
def server(deployed, monkeypatch):
    """The URL of a server that is set up, named by PREFECT_API_URL."""
    monkeypatch.setenv("PREFECT_API_URL", deployed.server)
    return deployed.server


@pytest.fixture
def client(deployed):
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(scope="session")
def small(once):
    """A dataset of 3 classes of 12 pictures, onboarded at 64 pixels: to be copied."""

    def build(root):
        folder, workspace = factories.write_dataset(root / "shapes", per_class=12), root / "workspace"
        factories.age(folder)
        document = factories.onboard(OnboardRequest(str(folder), str(workspace), size=64))
        return SimpleNamespace(folder=folder, workspace=workspace, document=document)

    return once("small", build)


@pytest.fixture
def place(small, tmp_path):
    shutil.copytree(small.workspace, tmp_path / "workspace")
    return tmp_path / "workspace"


@pytest.fixture
def tiny_network(monkeypatch):
    """A network that is built in a moment, where it is the job that is tested and not what it trains."""
    from pipeline.finetuning import arms
    from pipeline.finetuning.scratch import build_scratch

    monkeypatch.setattr(arms, "build_finetuned", lambda spec, head, schedule: build_scratch(64, 3))
    monkeypatch.setattr(arms, "build_deliverable", lambda spec, head: build_scratch(64, 3))
