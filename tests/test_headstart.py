"""The front door: what it offers, and that opening it costs nothing."""

import ast
import subprocess
import sys

import pytest

import headstart
from tests.conftest import HEAVY, ROOT


def test_every_name_is_there_sorted_and_nothing_else():
    assert headstart.__all__ == sorted(headstart.__all__)
    assert dir(headstart) == headstart.__all__
    assert all(getattr(headstart, name).__name__ == name for name in headstart.__all__)
    with pytest.raises(AttributeError, match="no attribute 'onbord'"):
        headstart.onbord  # noqa: B018


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "headstart.py").read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    assert sorted(alias.name for line in guarded.body for alias in line.names) == headstart.__all__


def test_every_function_and_class_says_what_it_takes_and_raises():
    for name in headstart.__all__:
        assert getattr(headstart, name).__doc__, name


def test_importing_it_loads_nothing_heavy():
    code = f"import sys, headstart; print([name for name in {(*HEAVY, 'numpy', 'pandas')} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "builtin"), [("DataError", ValueError), ("NotFoundError", FileNotFoundError), ("UsageError", ValueError)]
)
def test_an_error_is_also_the_builtin_one_that_people_catch(name, builtin):
    error = getattr(headstart, name)
    assert issubclass(error, headstart.HeadstartError)
    assert issubclass(error, builtin)
    assert str(error("what happened.")) == "what happened."
