# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Starts a script of jobs for several processes, and reads what each process saved."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Found = Callable[[str, int], list[Any]]


def started(script: str, folder: Path) -> Found:
    """Run the jobs of a script.

    Returns:
        What returns the results of each process, by job and number of processes; None of a killed one.
    """
    path = Path(__file__).with_name(script)
    # Beside its own folder the script imports from the one above.
    above = os.pathsep.join([str(path.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "ignore", str(path), str(folder)]
    environment = {**os.environ, "PYTHONPATH": above}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stderr[-2000:]

    def results(job: str, count: int) -> list[Any]:
        files = [folder / f"{job}-{count}-{rank}.pt" for rank in range(count)]
        return [torch.load(file, weights_only=False) if file.exists() else None for file in files]

    return results
