# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How much memory this process takes, and how much is free."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import torch

_PROC = Path("/proc")


def resident_memory() -> int:
    """Return the bytes of memory that this process takes now; where the system does not say, the most it took."""
    try:
        return int((_PROC / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return peak_memory()


def peak_memory() -> int:
    """Return the most bytes that this process took so far, 0 where the system does not say."""
    found = _kilobytes(_PROC / "self/status", "VmHWM")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def anonymous_memory() -> tuple[int, int]:
    """Return the bytes of this process's memory that are its own, and at most so far; of code and files nothing."""
    status = _PROC / "self/status"
    own, files = _kilobytes(status, "RssAnon"), _kilobytes(status, "RssFile")
    if own is None or files is None:
        return resident_memory(), peak_memory()
    return own, max(own, peak_memory() - files)


def available_memory(device: torch.device | str = "cpu") -> int | None:
    """Return the bytes that this process could still take, or None where the system does not say.

    Of the machine's memory a control group (a container's limit) or an address-space limit may allow less.
    """
    kind = torch.device(device)
    if kind.type == "cuda":
        free = int(torch.cuda.mem_get_info(kind)[0])
        return free + torch.cuda.memory_reserved(kind) - torch.cuda.memory_allocated(kind)
    if kind.type != "cpu":
        return None
    limits = [_kilobytes(_PROC / "meminfo", "MemAvailable"), _group_limit(), _address_limit()]
    known = [limit for limit in limits if limit is not None]
    return max(min(known), 0) if known else None


def _kilobytes(path: Path, name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def _group_limit() -> int | None:
    """Return what the control group at the root of this process's view leaves, None for no limit."""
    group = Path("/sys/fs/cgroup")
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit, taken = (group / most).read_text().strip(), int((group / used).read_text())
            stat = (group / most).with_name("memory.stat").read_text()
        except (OSError, ValueError):
            continue
        if limit.isdigit() and int(limit) < 2**60:
            cached = re.search(r"^(?:total_)?inactive_file (\d+)", stat, re.MULTILINE)  # given back when it is needed
            return int(limit) - taken + (int(cached.group(1)) if cached else 0)
    return None


def _address_limit() -> int | None:
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        infinite = limit == resource.RLIM_INFINITY
    except ImportError:
        return None
    taken = _kilobytes(_PROC / "self/status", "VmSize")
    return None if infinite or taken is None else limit - taken
