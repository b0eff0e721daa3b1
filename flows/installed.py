"""The check that `pipeline`, `storage` and `flows` are headstart's own: other projects use these names too.

It imports nothing of headstart, so that it can say what is wrong before an import fails.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

NAMES = ("pipeline", "storage", "flows")


def check_names() -> None:
    """Check that Python finds all three packages in the folder that this one is in.

    Raises
    ------
    ImportError
        It finds another file or folder of one of the names first.
    """
    here = Path(__file__).resolve().parents[1]
    for name in NAMES:
        spec = find_spec(name)
        if spec is None or not spec.origin:
            raise ImportError(f"headstart is incomplete: {here / name} is missing. Install headstart again.")
        if Path(spec.origin).resolve() != here / name / "__init__.py":
            raise ImportError(
                f"Python found {spec.origin} instead of headstart's own package {name!r}. Rename it, or run from "
                "another folder with `python -P`."
            )
