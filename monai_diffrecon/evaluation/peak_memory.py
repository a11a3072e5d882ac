# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The largest memory that a computation took."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Measures from the moment it is made: of the GPU where there is one, else of this process (Linux)."""

    def __init__(self) -> None:
        self._cuda = torch.cuda.is_available()
        self._process = False
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            with suppress(OSError):
                _RESET.write_text("5")  # sets VmHWM back to what is used now
                self._process = True

    def gigabytes(self) -> float | None:
        """Return the peak since then in GB (1e9 bytes), or None where it cannot be known."""
        if self._cuda:
            return torch.cuda.max_memory_allocated() / 1e9
        if self._process:
            found = re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())
            return int(found.group(1)) * 1024 / 1e9 if found else None
        return None
