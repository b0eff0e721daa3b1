from __future__ import annotations

import json
import os

import pytest

from pipeline.errors import ConflictError, DamagedError, NotFoundError
from storage.disk.atomic import Fs
from storage.workspace import Workspace


class ReadOnlyFs(Fs):
    def open_exclusive(self, path, mode):
        raise OSError(30, os.strerror(30))


def test_a_workspace_names_its_format_once(tmp_path):
    first = Workspace.open(tmp_path / "deep" / "home").format_file.read_bytes()
    assert Workspace.open(tmp_path / "deep" / "home").format_file.read_bytes() == first
    document = json.loads(first)
    assert (document["format"], document["version"]) == ("headstart.workspace", 1)
    assert len(document["store_id"]) == 32


def test_two_workspaces_differ(tmp_path):
    one, two = Workspace.open(tmp_path / "one"), Workspace.open(tmp_path / "two")
    assert one.format_file.read_bytes() != two.format_file.read_bytes()


def test_opening_leaves_no_probe_behind(workspace):
    assert os.listdir(workspace.staging.folder) == []


@pytest.mark.parametrize("below", ["/proc/headstart", "/dev/null/headstart"])
def test_a_place_that_cannot_hold_a_workspace_is_named(below):
    with pytest.raises(ConflictError, match=r"Cannot write .*headstart.*--workspace"):
        Workspace.open(below)


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConflictError, match="Cannot write"):
        Workspace.open(tmp_path / "file" / "home")
    with pytest.raises(ConflictError, match="Cannot write"):
        Workspace.open(tmp_path / "file")


def test_a_workspace_that_became_read_only_is_refused(workspace):
    with pytest.raises(ConflictError, match=r"Cannot write .*Read-only"):
        Workspace.open(workspace.root, fs=ReadOnlyFs())


def test_reading_does_not_make_or_probe_anything(tmp_path, workspace):
    with pytest.raises(NotFoundError, match="no workspace"):
        Workspace.open(tmp_path / "absent", create=False)
    assert not (tmp_path / "absent").exists()
    assert Workspace.open(workspace.root, create=False, fs=ReadOnlyFs()).root == workspace.root


def test_a_newer_workspace_is_refused(workspace):
    workspace.format_file.write_text('{"format": "headstart.workspace", "version": 2}')
    with pytest.raises(ConflictError, match="version 2"):
        Workspace.open(workspace.root)


def test_a_damaged_format_file_is_refused(workspace):
    workspace.format_file.write_text("{")
    with pytest.raises(DamagedError):
        Workspace.open(workspace.root)


def test_what_is_set_aside_is_kept_under_its_own_name(workspace):
    for content in (b"one", b"two"):
        (workspace.root / "file").write_bytes(content)
        workspace.set_aside(workspace.root / "file")
    kept = {path.read_bytes() for path in workspace.quarantine.iterdir()}
    assert kept == {b"one", b"two"}


def test_a_workspace_may_have_an_undecodable_name(tmp_path, space, block_of, digests_of):
    from storage.features.store import FeatureStore
    from storage.features.writer import FeatureWriter

    root = tmp_path / os.fsdecode(b"caf\xff ?#%41")
    with FeatureWriter(Workspace.open(root), space) as store:
        store.append(block_of([1]))
    assert FeatureStore(Workspace.open(root), space).missing(digests_of([1])) == []
