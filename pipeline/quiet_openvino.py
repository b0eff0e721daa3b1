"""Import OpenVINO without its telemetry. Everything here that uses OpenVINO takes `ov` from this module.

It reports its imports and conversions to its makers unless the module that does so is missing.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402  the line above must come first

__all__ = ["ov"]
