"""headstart from Python: turn a folder of pictures into an image classifier that you can check.

>>> import headstart
>>> model = headstart.onboard("pictures")  # doctest: +SKIP
>>> model.predict("new/1.jpg")  # doctest: +SKIP
[Prediction(path='new/1.jpg', label='rose', probability=0.97, ...)]

Importing this module loads nothing heavy: a name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    import_module("flows.installed")  # which checks that `pipeline`, `storage` and `flows` are headstart's own
except ModuleNotFoundError as error:
    raise ImportError(
        f"Python found something else of the name 'flows' than headstart's own package ({error}). Rename it, or run "
        "from another folder with `python -P`."
    ) from error

if TYPE_CHECKING:
    from flows.api.bottleneck import BottleneckFeatures, Features
    from flows.api.model import Model, Prediction
    from flows.api.plan import Plan
    from flows.api.verbs import features, load, models, onboard, plan
    from pipeline.errors import (
        CancelledError,
        ConflictError,
        DamagedError,
        DataError,
        GateError,
        HeadstartError,
        ImageError,
        NotFoundError,
        NumericsError,
        ServerUnreachableError,
        UnknownNameError,
        UsageError,
    )

__all__ = [
    "BottleneckFeatures",
    "CancelledError",
    "ConflictError",
    "DamagedError",
    "DataError",
    "Features",
    "GateError",
    "HeadstartError",
    "ImageError",
    "Model",
    "NotFoundError",
    "NumericsError",
    "Plan",
    "Prediction",
    "ServerUnreachableError",
    "UnknownNameError",
    "UsageError",
    "features",
    "load",
    "models",
    "onboard",
    "plan",
]

_PLACES = {
    "BottleneckFeatures": "flows.api.bottleneck",
    "Features": "flows.api.bottleneck",
    "Model": "flows.api.model",
    "Plan": "flows.api.plan",
    "Prediction": "flows.api.model",
    "features": "flows.api.verbs",
    "load": "flows.api.verbs",
    "models": "flows.api.verbs",
    "onboard": "flows.api.verbs",
    "plan": "flows.api.verbs",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    value = getattr(import_module(_PLACES.get(name, "pipeline.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
