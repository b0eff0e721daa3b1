"""Content to hex digits: equal content, equal fingerprint; anything ambiguous is refused.

Never a path, a time or a pickle: caches keyed by those reuse what they should not (huggingface/datasets#2775).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

DIGEST_BYTES = 32
FINGERPRINT_DIGITS = 16  # 64 bits: for names people read; rows are keyed by all 32 bytes


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, ASCII, no NaN.

    Raises
    ------
    TypeError
        For anything but dict (string keys), list, tuple, str, int, float, bool and None.
    """
    _check(value)
    return json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def fingerprint(value: Any) -> str:
    """Return 16 hex digits of a value's canonical JSON (SHA-256, first 64 bits).

    >>> fingerprint({"b": 1, "a": [2, 3]}) == fingerprint({"a": [2, 3], "b": 1})
    True
    """
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()[:FINGERPRINT_DIGITS]


def digest(data: bytes) -> bytes:
    """Return the 32-byte SHA-256 of some bytes; the row key of an image is that of its encoded file."""
    return hashlib.sha256(data).digest()


def _check(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"cannot fingerprint a dict with a key of type {type(key).__name__}: use str")
            _check(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item)
    elif value is not None and not isinstance(value, str | int | float | bool):
        raise TypeError(f"cannot fingerprint {type(value).__name__}: use dict, list, str, int, float, bool or None")
