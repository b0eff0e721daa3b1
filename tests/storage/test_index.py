from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from storage.index import KeyIndex

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
    wanted = [key for keys in shards for key in keys] + others
    shard, row = index.find(wanted)
    found = [tuple(pair) for pair in np.stack([shard, row], axis=1).tolist()]
    for key, pair in zip(wanted, found, strict=True):
        if key in expected:
            assert pair == expected[key]
        else:
            assert pair[0] == -1
