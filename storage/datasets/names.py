"""Names of datasets: those that people give, and those derived from a folder."""

from __future__ import annotations

import re
import unicodedata

from pipeline.errors import UsageError
from pipeline.fingerprint import fingerprint

MAX_NAME = 64  # characters
NAME_PATTERN = rf"^[a-z0-9][a-z0-9._-]{{0,{MAX_NAME - 1}}}$"


def parse_dataset_name(text: str) -> str:
    """Accept a name that a person gave; UsageError if it cannot be one."""
    if not re.fullmatch(NAME_PATTERN, text):
        raise UsageError(
            f"{text!r} cannot be a name. Wanted: at most {MAX_NAME} of a-z, 0-9, '.', '_' and '-', "
            f"the first one a letter or digit, for example '{dataset_name(text)}'."
        )
    return text


def dataset_name(text: str) -> str:
    """Derive a name from that of a folder.

    >>> dataset_name("My Flowers!")
    'my-flowers'
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").lower()
    name = re.sub(r"[^a-z0-9._]+", "-", ascii_text).strip("._-")[:MAX_NAME].rstrip("._-")
    # nothing is left of a name in another script: its fingerprint tells it from others
    return name or f"dataset-{fingerprint(text)[:6]}"
