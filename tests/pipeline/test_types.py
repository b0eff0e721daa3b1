"""The nouns, where they are more than fields."""

import numpy as np
import pytest


def test_the_types_of_arrays_can_be_imported_although_the_nouns_do_not_load_numpy():
    from pipeline.types import Array, Pixels

    assert Array == Pixels == np.typing.NDArray[np.float32]
    with pytest.raises(ImportError, match="Tensor"):
        from pipeline.types import Tensor  # noqa: F401
