"""Import TensorFlow and Keras without the lines that C++ writes to stderr before any setting can reach them.

Everything here that uses them takes `keras` and `tf` from this module. If the import fails, what was written
is shown.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # for what comes after the start-up


@contextmanager
def _quiet_start() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except BaseException:
            chatter.seek(0)
            os.write(kept, chatter.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


with _quiet_start():
    import keras
    import tensorflow as tf

    tf.config.list_physical_devices()  # looks for a GPU here, once, instead of at the first tensor

# What TensorFlow made on import lives as long as the process. Kept out of every later garbage collection, building or
# reading a model takes a third less time.
gc.freeze()

__all__ = ["keras", "tf"]
