"""Every example in a docstring does what it says."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"pipeline.backbones.lite": pytest.mark.heavy, "flows.service.artifacts": pytest.mark.prefect}


def count_examples():
    """The number of examples in each module that has any, by the module's name."""
    sources = [path for folder in ("pipeline", "storage", "flows") for path in sorted((ROOT / folder).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources]
    counts = [path.read_text(encoding="utf-8").count(">>> ") for path in sources]
    return {name: count for name, count in zip(names, counts, strict=True) if count}


@pytest.mark.parametrize(
    ("name", "count"),
    [pytest.param(name, count, marks=HEAVY.get(name, ())) for name, count in count_examples().items()],
)
def test_the_examples_of_a_module_are_true(name, count):
    module = importlib.import_module(name)
    found = doctest.DocTestFinder().find(module)
    assert sum(len(test.examples) for test in found) == count  # none is hidden where doctest does not look
    assert doctest.testmod(module).failed == 0
