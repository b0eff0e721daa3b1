"""headstart notices a stranger's file that Python takes for one of its packages."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from flows import installed
from tests.conftest import ROOT


def test_headstart_finds_its_own_packages():
    installed.check_names()


@pytest.mark.parametrize("stranger", ["storage.py", "pipeline/__init__.py"])
def test_a_stranger_of_one_of_its_names_is_named_with_what_to_do(tmp_path, stranger):
    file = tmp_path / stranger
    file.parent.mkdir(exist_ok=True)
    file.touch()
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import flows"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    name = stranger.partition("/")[0].removesuffix(".py")
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1] == (
        f"ImportError: Python found {file} instead of headstart's own package {name!r}. Rename it, or run from another "
        "folder with `python -P`."
    )


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(installed, "find_spec", lambda name: None if name == "storage" else find_spec(name))
    with pytest.raises(ImportError, match=r"/storage is missing\. Install headstart again"):
        installed.check_names()
