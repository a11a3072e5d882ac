# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Forward projection and its exact adjoint by diffct: on a GPU for tensors there, by PyTorch on the CPU."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffrecon_rtk.rtk_filters import detector_frames, source_positions
from diffrecon_rtk.trajectory import Detector, Trajectory
from monai_diffrecon.errors import ConfigError


def check_diffct(scan: Trajectory) -> None:
    """Refuse what diffct cannot do here.

    Raises:
        ConfigError: it is not installed, or the detector is curved.
    """
    where = "operator#projector"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports a deprecated module of its own
        try:
            importlib.import_module("diffct")
        except ImportError:
            raise ConfigError(
                "diffct is not installed", where=where, mend="pip install diffrecon-rtk[diffct]"
            ) from None
    if scan.detector_radius > 0.0:
        raise ConfigError("a curved detector", where=where, expected="rtk", got="diffct", mend="use RTK's projector")


def projected(x: Tensor, spacing: Sequence[float], scan: Trajectory, detector: Detector, height: float = 0.0) -> Tensor:
    """Return the line integrals (views, nu, nv) in mm of a volume (X, Y, Z) whose voxels are constant (Siddon 1985).

    Args:
        x: the volume.
        spacing: voxel size along (X, Y, Z) in mm.
        scan: the views.
        detector: its flat detector.
        height: of the volume's centre above the isocentre in mm.
    """
    made = _projector(tuple(x.shape), tuple(spacing), scan, detector, height, *_setting(x))
    return made.project(x.detach().to(made.dtype).permute(2, 1, 0).contiguous()).to(x.dtype)


def back_projected(
    y: Tensor,
    shape: Sequence[int],
    spacing: Sequence[float],
    scan: Trajectory,
    detector: Detector,
    height: float = 0.0,
) -> Tensor:
    """Return the exact adjoint (X, Y, Z) of :func:`projected`, for a volume of that shape, of (views, nu, nv)."""
    made = _projector(tuple(shape), tuple(spacing), scan, detector, height, *_setting(y))
    return made.backproject(y.detach().to(made.dtype).contiguous()).permute(2, 1, 0).contiguous().to(y.dtype)


def _setting(x: Tensor) -> tuple[str, str]:
    """Return precision and backend for a tensor; without a GPU in it, none is to be used."""
    return "float64" if x.dtype == torch.float64 else "fast", "torch" if x.device.type == "cpu" else "auto"


@lru_cache(maxsize=8)
def _projector(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    scan: Trajectory,
    detector: Detector,
    height: float,
    precision: str,
    backend: str,
) -> Any:
    centres, u, v = detector_frames(scan, detector)
    sources = source_positions(scan)
    down = np.array([0.0, 0.0, height])  # diffct's volume is about its origin
    dtype = torch.float64 if precision == "float64" else torch.float32
    return importlib.import_module("diffct").Projector(
        tuple(torch.from_numpy(np.ascontiguousarray(a)).to(dtype) for a in (sources - down, centres - down, u, v)),
        shape[::-1],
        detector.pixels,
        detector_spacing=detector.spacing,
        voxel_spacing=spacing[::-1],
        backend=backend,
        precision=precision,
    )
