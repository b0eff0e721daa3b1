"""A context manager that commits at the end of its block."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Self

from pipeline.errors import ConflictError

log = logging.getLogger(__name__)


class CommittedAtEnd(ABC):
    """A context manager that commits, also after an error: what was done until then is done."""

    @abstractmethod
    def commit(self) -> None:
        """Make everything count that was written until now."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.commit()
        except ConflictError:
            if error is None:
                raise
            log.exception("the last rows could not be committed")  # what stopped us first is the news
