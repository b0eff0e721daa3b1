"""The documents that commands print with `--json`."""

SCHEMA_VERSION = 1
