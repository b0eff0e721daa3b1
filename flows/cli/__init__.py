"""The command line."""

import gc
import os

# To look for plugins, pydantic reads the metadata of every installed package: 60 ms of each command, and there are none
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
# Importing makes many objects that stay. To look for garbage after every 700 of them is a tenth of a short command.
gc.set_threshold(50_000)
