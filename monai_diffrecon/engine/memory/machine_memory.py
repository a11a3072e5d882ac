# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Memory that this process uses, and memory that is free."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path

import psutil
import torch

#: Memory limits of a container in both versions of Linux control groups; psutil knows the machine only.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_memory() -> int:
    """Return the bytes of memory that this process uses now."""
    return int(psutil.Process().memory_info().rss)


def available_memory(device: torch.device | str = "cpu") -> int | None:
    """Return the bytes that this process can still allocate, or None if unknown.

    The limit of a container or of the address space may allow less than the machine has.
    """
    kind = torch.device(device)
    if kind.type == "cuda":
        free = int(torch.cuda.mem_get_info(kind)[0])
        return free + torch.cuda.memory_reserved(kind) - torch.cuda.memory_allocated(kind)
    if kind.type != "cpu":
        return None
    process, free = psutil.Process(), int(psutil.virtual_memory().available)
    used = process.memory_info()
    if hasattr(process, "rlimit"):  # Linux
        limit = process.rlimit(psutil.RLIMIT_AS)[0]
        free = free if limit == psutil.RLIM_INFINITY else min(free, limit - used.vms)
    for path in _LIMITS:
        text = path.read_text().strip() if path.is_file() else ""
        free = min(free, int(text) - used.rss) if text.isdigit() else free  # "max" is none
    return max(free, 0)


class PeakMemory:
    """Measures the peak since its creation: of a GPU, or of this process (Linux).

    Args:
        device: the GPU where the networks compute, or the CPU.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._process = False
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with suppress(OSError):
                _RESET.write_text("5")  # resets VmHWM to the current use
                self._process = True

    def gigabytes(self) -> float | None:
        """Return the peak since then in GB (1e9 bytes), or None if unknown."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 1e9
        return peak_memory() if self._process else None


def return_memory() -> None:
    """Give memory that was freed back to the system, which glibc keeps for later in pieces of up to 32 MB."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory() -> float | None:
    """Return the peak of this process since its start, or since it was last reset, in GB, or None if unknown."""
    found = re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text()) if _STATUS.is_file() else None
    return int(found.group(1)) * 1024 / 1e9 if found else None
