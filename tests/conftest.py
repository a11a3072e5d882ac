# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests."""

import os

# Before torch is imported: tests are small, and more threads only contend.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Child processes of a test read it too.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
