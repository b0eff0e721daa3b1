from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.features.index import KeyIndex

KEYS = st.binary(min_size=1, max_size=2).map(lambda seed: seed.ljust(32, b"\0")) | st.binary(min_size=32, max_size=32)


@given(st.lists(st.lists(KEYS, max_size=5), max_size=5), st.lists(KEYS, max_size=5))
def test_the_first_shard_that_holds_a_key_is_found(shards, others):
    index = KeyIndex()
    expected = {}
    for number, keys in enumerate(shards):
        index.add(str(number), b"".join(keys))
        for row, key in enumerate(keys):
            expected.setdefault(key, (number, row))
        assert index.num_distinct() == len(expected)
    assert_finds(index, expected, [key for keys in shards for key in keys] + others)


@pytest.mark.parametrize("same", [slice(0, 8), slice(0, 24), slice(8, 32), slice(4, 32)])
def test_keys_that_share_most_of_their_bytes_are_told_apart(same):
    keys = distinct(range(3000))
    alike = []
    for key in keys:
        crafted = bytearray(key)
        crafted[same] = keys[0][same]
        alike.append(bytes(crafted))
    index = KeyIndex()
    index.add("0", b"".join(alike[:1000]))
    index.add("1", b"".join(alike[1000:2000]))
    expected = {key: divmod(number, 1000) for number, key in enumerate(alike[:2000])}
    assert index.num_distinct() == len(expected)
    assert_finds(index, expected, alike)


def test_an_index_that_grows_shard_by_shard_loses_nothing():
    """With every third row a copy of an earlier one."""
    index = KeyIndex()
    expected = {}
    for number in range(120):
        keys = distinct(row // 3 if row % 3 == 0 else row for row in range(number * 100, number * 100 + 100))
        index.add(str(number), b"".join(keys))
        for row, key in enumerate(keys):
            expected.setdefault(key, (number, row))
        assert index.num_distinct() == len(expected)
    assert_finds(index, expected, distinct(range(13_000)))


def test_nothing_is_found_in_an_empty_index():
    index = KeyIndex()
    assert index.num_distinct() == 0
    assert_finds(index, {}, distinct(range(3)))
    assert_finds(index, {}, [])


def distinct(numbers):
    return [hashlib.sha256(str(number).encode()).digest() for number in numbers]


def assert_finds(index, expected, wanted):
    shard, row = index.find(wanted)
    found = [tuple(pair) if pair[0] >= 0 else None for pair in np.stack([shard, row], axis=1).tolist()]
    assert found == [expected.get(key) for key in wanted]
