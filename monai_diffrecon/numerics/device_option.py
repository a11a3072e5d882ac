# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The check of a device that a user names."""

from __future__ import annotations

import torch

from monai_diffrecon.errors import ConfigError


def check_device(device: torch.device | str | None, where: str) -> torch.device | str | None:
    """Return a device as it was given; None: where the weights are.

    Raises:
        ConfigError: torch knows no such device, or this machine has none.
    """
    try:
        there = device is None or torch.device(device).type != "cuda" or torch.cuda.is_available()
    except (RuntimeError, TypeError):
        there = False
    if not there:
        raise ConfigError(
            "no such device", where=where, expected="cpu, or cuda:0 if CUDA is available", got=repr(device)
        )
    return device
