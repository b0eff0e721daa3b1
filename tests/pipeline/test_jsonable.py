from dataclasses import dataclass

import pytest

from pipeline.errors import DamagedError
from pipeline.jsonable import from_json, to_json


@dataclass(frozen=True, slots=True)
class Inner:
    limits: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Outer:
    name: str
    inner: Inner
    rows: tuple[Inner, ...] = ()
    note: str | None = None


VALUE = Outer("a", Inner((0.0, 1.0)), (Inner((1.0, 2.0)),))


def test_a_value_is_the_same_after_json():
    document = to_json(VALUE)
    assert document == {
        "name": "a",
        "inner": {"limits": [0.0, 1.0]},
        "rows": [{"limits": [1.0, 2.0]}],
        "note": None,
    }
    assert from_json(Outer, document) == VALUE


def test_a_field_that_an_older_version_did_not_write_gets_its_default_and_an_unknown_one_is_ignored():
    document = {"name": "a", "inner": {"limits": [0, 1]}, "from_the_future": 1}
    assert from_json(Outer, document) == Outer("a", Inner((0.0, 1.0)))


@pytest.mark.parametrize(
    ("document", "place"),
    [({"name": "a"}, "inner"), ({"name": "a", "inner": {"limits": [0, "x"]}}, "inner.limits.1")],
)
def test_damage_is_named_by_its_place(document, place):
    with pytest.raises(DamagedError, match=f"'{place}'"):
        from_json(Outer, document)
