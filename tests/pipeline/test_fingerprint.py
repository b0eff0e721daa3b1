import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fingerprint import canonical_json, digest, fingerprint
from tests import factories

ROOT = Path(__file__).resolve().parents[2]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_the_order_of_keys_does_not_matter():
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})


def test_the_order_of_a_list_matters():
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_a_tuple_counts_as_a_list():
    assert fingerprint((1, ("a",))) == fingerprint([1, ["a"]])


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, "1"), (1, 1.0), (1, True), (0, None), ("", None), ([], {}), ([[1], 2], [1, [2]]), ("a", ["a"])],
)
def test_values_that_look_alike_have_different_fingerprints(one, other):
    assert fingerprint(one) != fingerprint(other)


@given(JSON_VALUES)
def test_a_value_that_went_through_json_keeps_its_fingerprint(value):
    assert fingerprint(json.loads(json.dumps(value))) == fingerprint(value)


@given(JSON_VALUES)
def test_canonical_json_is_ascii_and_one_line(value):
    text = canonical_json(value)
    assert text.isascii()
    assert "\n" not in text


@pytest.mark.parametrize(
    "value",
    [{1: "a"}, {"a": {None: 1}}, [b"bytes"], {1, 2}, object(), np.float32(1), np.arange(3), 1j],
    ids=lambda value: type(value).__name__,
)
def test_anything_ambiguous_is_refused_by_its_type(value):
    with pytest.raises(TypeError, match="cannot fingerprint"):
        fingerprint({"deep": [value]})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint([value])


def test_a_fingerprint_is_sixteen_hex_digits_and_stays_the_same_for_good():
    # names of folders are made of it: a change here would orphan every workspace
    text = b'{"classes":["cats","dogs"],"size":224}'
    assert fingerprint({"size": 224, "classes": ["cats", "dogs"]}) == hashlib.sha256(text).hexdigest()[:16]
    assert hashlib.sha256(text).hexdigest()[:16] == "b76cd32344fdf0c9"


def test_a_fingerprint_does_not_depend_on_the_hash_seed():
    code = "from pipeline.fingerprint import fingerprint; print(fingerprint({'b': [1, 'ä'], 'a': None}))"
    command = [sys.executable, "-c", code]
    printed = {
        subprocess.run(command, env={"PYTHONHASHSEED": seed}, cwd=ROOT, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_a_digest_is_the_sha256_of_the_bytes():
    assert digest(b"abc") == hashlib.sha256(b"abc").digest()
    assert len(digest(b"")) == 32


def test_every_field_of_a_space_is_in_its_identity():
    spaces = [
        factories.a_space(),
        factories.a_space(backbone="another"),
        factories.a_space(weights_sha256="cd" * 32),
        factories.a_space(recipe=factories.a_recipe(size=33)),
        factories.a_space(recipe=factories.a_recipe(decoder="pillow-14")),
        factories.a_space(taps=(factories.a_tap(),)),
        factories.a_space(taps=(factories.a_tap(dim=9),)),
        factories.a_space(dtype="float32"),
        factories.a_space(numerics="float32-2"),
    ]
    assert len({space.id for space in spaces}) == len(spaces)
    assert factories.a_space().id == factories.a_space().id
