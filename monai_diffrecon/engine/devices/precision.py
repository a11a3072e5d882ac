# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Precision of the matrix products inside the networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from monai_diffrecon.errors import ConfigError

#: ``auto`` becomes one of the others when the device is known.
PRECISIONS = ("float32", "bfloat16", "float16", "tf32", "auto")

#: Smallest compute capability of a GPU with tensor cores for bfloat16.
_CAPABILITY = 8
_CPUINFO = Path("/proc/cpuinfo")


def resolved_precision(precision: str, device: torch.device) -> str:
    """Return the precision on a device: ``auto`` is bfloat16 where that is fast, and float32 elsewhere.

    Fast are GPUs of compute capability 8 and above, and processors with AMX (found on Linux only).

    Raises:
        ConfigError: ``tf32`` without a CUDA device.
    """
    if precision == "tf32" and device.type != "cuda":
        raise ConfigError(
            "TF32 is a format of CUDA devices",
            where="inferer#precision",
            expected="float32, bfloat16, float16 or auto",
            got=f"tf32 on {device}",
            mend="set precision to float32",
        )
    if precision != "auto":
        return precision
    return "bfloat16" if fast_bfloat16(device) else "float32"


def fast_bfloat16(device: torch.device) -> bool:
    """Say whether a device has units for matrix products in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= _CAPABILITY
    if device.type != "cpu" or not _CPUINFO.is_file():
        return False
    flags = next((line for line in _CPUINFO.read_text().splitlines() if line.startswith("flags")), "")
    return "amx_bf16" in flags.split()


def autocast_dtype(precision: str) -> torch.dtype | None:
    """Return the type that a precision casts matrix products to; None for none."""
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in matrix products and convolutions, and restore the settings of the process afterwards.

    PyTorch allows it in convolutions unless told otherwise. The settings count for all threads of the process.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
