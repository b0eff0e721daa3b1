"""Frozen forward passes on CPU in OpenVINO: a compiled network, and a stream of batches through it.

Heavy leaf: importing it loads OpenVINO (0.3 s), never TensorFlow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engine.extract import FeatureEngine, Rows, Tag
from pipeline.quiet_openvino import ov
from pipeline.types import Array, Pixels

# float32 everywhere: a CPU with AMX would otherwise answer in bfloat16, and features would not be portable.
_SETTINGS: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}


@dataclass(frozen=True, slots=True)
class Tuning:
    """How an engine divides its work over a machine; it changes speed, and numbers by rounding only."""

    batch: int  # rows of every pass
    streams: int  # passes at a time, 0 is OpenVINO's choice
    threads: int  # of all passes together, 0 is OpenVINO's choice


# With EfficientNet-Lite0 on 2 cores batches of 1 to 3 rows are 15 to 20 % faster than of 8 or more: their activations
# stay in the cache.
DEFAULT_TUNING = Tuning(batch=2, streams=0, threads=0)


class Engine(FeatureEngine):
    """A compiled network from (batch, size, size, 3) pixels to named float32 outputs."""

    def __init__(self, network: ov.Model, tuning: Tuning = DEFAULT_TUNING) -> None:
        network = network.clone()  # what is compiled has a fixed batch, what we were given keeps its own
        network.reshape([tuning.batch, *network.input().partial_shape[1:]])
        settings = dict(_SETTINGS)
        if tuning.streams:
            settings["NUM_STREAMS"] = tuning.streams
        if tuning.threads:
            settings["INFERENCE_NUM_THREADS"] = tuning.threads
        self._compiled = ov.Core().compile_model(network, "CPU", settings)
        self.batch = tuning.batch
        self.row_shape: tuple[int, ...] = tuple(self._compiled.input().shape)[1:]  # (size, size, 3)
        # one more than run at a time, so that none waits for us to fetch results and stack pixels
        self.num_requests: int = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1
        self.dims = {output.get_any_name(): int(output.shape[1]) for output in self._compiled.outputs}

    @classmethod
    def load(cls, path: Path, tuning: Tuning = DEFAULT_TUNING) -> Engine:
        """Compile a network that `pipeline.engine.conversion` saved."""
        return cls(ov.Core().read_model(path), tuning)

    def stream(self, batches: Iterable[tuple[Tag, Rows]]) -> Iterator[tuple[Tag, Mapping[str, Array]]]:
        """Run batches as `FeatureEngine.stream`.

        Requests are waited for in turn instead of through OpenVINO's callbacks: a callback's thread can hold
        the last reference to the network, and a network destroyed by its own thread aborts the process.
        """
        idle = [self._compiled.create_infer_request() for _ in range(self.num_requests)]
        running: deque[tuple[Tag, int, ov.InferRequest]] = deque()
        for tag, pixels in batches:
            if not idle:
                yield self._finish(running, idle)
            request = idle.pop()
            _fill(request.get_input_tensor().data, pixels)
            request.start_async()
            running.append((tag, len(pixels), request))
        while running:
            yield self._finish(running, idle)

    def _finish(
        self, running: deque[tuple[Tag, int, ov.InferRequest]], idle: list[ov.InferRequest]
    ) -> tuple[Tag, Mapping[str, Array]]:
        tag, rows, request = running.popleft()
        request.wait()
        outputs = {name: request.get_tensor(name).data[:rows].copy() for name in self.dims}
        idle.append(request)
        return tag, outputs


def _fill(batch: Pixels, rows: Rows) -> None:
    """Copy rows into a batch, the last one as often as it takes."""
    for place in range(len(batch)):
        batch[place] = rows[min(place, len(rows) - 1)]
