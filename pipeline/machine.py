"""What this machine computes with: cores, processor, GPU. Found without loading anything heavy."""

from __future__ import annotations

import math
import os
import platform
from importlib.metadata import version
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Count the logical cores this process may use: its affinity and, in a container, its quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        cores = cores if quota == "max" else min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no Linux, no container, no quota
        pass
    return max(cores, 1)


def machine_id() -> str:
    """Name what a measurement of speed is valid for: processor, cores we may use, OpenVINO."""
    return f"{_processor()}, {usable_cores()} cores, openvino {version('openvino')}"


def has_gpu(visible: str | None = None, root: Path = Path("/")) -> bool:
    """Tell whether there is an NVIDIA GPU that this process may use.

    Parameters
    ----------
    visible
        CUDA_VISIBLE_DEVICES, None where it is not set. CUDA stops reading at the first number that is no device, so an
        empty list and one that begins with -1 hide every GPU.
    """
    hidden = visible is not None and visible.split(",")[0].strip() in ("", "-1", "NoDevFiles")
    # a driver without a device, or a device file without a driver, is no GPU
    return not hidden and (root / "dev/nvidiactl").exists() and any((root / "proc/driver/nvidia/gpus").glob("*"))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()
