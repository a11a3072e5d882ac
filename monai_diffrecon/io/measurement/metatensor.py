# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Measurements as tensors that carry their metadata through MONAI's pipelines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.protocols import Measurement, Padding, VolumeGeometry

#: Key of the metadata in which a measurement carries what its data does not say.
META_KEY = "diffrecon"


def geometry_of(shape: Sequence[int], affine: Any = None, gaps: Sequence[float] = (0.0, 0.0, 0.0)) -> VolumeGeometry:
    """Return the geometry of an image of spatial ``shape`` with a 4 x 4 ``affine`` in RAS+ (None: 1 mm).

    ``gaps`` (mm) lie between its voxels.
    """
    matrix = np.eye(4) if affine is None else np.asarray(torch.as_tensor(affine).cpu(), dtype=np.float64)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    return VolumeGeometry(
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        affine=tuple(tuple(float(v) for v in row) for row in matrix),
        gaps=(float(gaps[0]), float(gaps[1]), float(gaps[2])),
    )


def affine_of(geometry: VolumeGeometry) -> np.ndarray:
    """Return the 4 x 4 affine of a geometry; a diagonal one when it has none."""
    if geometry.affine is not None:
        return np.asarray(geometry.affine, dtype=np.float64)
    return np.diag([*geometry.spacing, 1.0])


def to_tensor(measurement: Measurement, image: VolumeGeometry | None = None) -> MetaTensor:
    """Return a measurement as a ``MetaTensor``, which MONAI's loaders carry to the inferer.

    Args:
        measurement: the measurement.
        image: where the data lies when it is an image itself; None takes that of the volume.
    """
    m = measurement
    affine = torch.as_tensor(affine_of(image if image is not None else m.geometry))
    # Options as a string: MONAI's collation refuses None and what is empty, and turns numbers into tensors.
    block: dict[str, Any] = {
        "gaps": list(m.geometry.gaps),
        "oriented": m.geometry.affine is not None,
        "simulated": m.simulated,
        "noise_std": float(m.noise_std),
        "unit": m.unit,
        "source_sha256": m.source_sha256 or "",
        "header": json.dumps(m.header),
        "notices": json.dumps(m.notices),
    }
    if m.operator is not None or tuple(m.data.shape) != (1, *m.geometry.shape):
        block |= {"volume_shape": list(m.geometry.shape), "volume_affine": affine_of(m.geometry).tolist()}
    if m.operator is not None:
        arrays = {k: v for k, v in m.operator.items() if isinstance(v, Tensor)}
        block["operator"] = json.dumps({k: v for k, v in m.operator.items() if k not in arrays})
        block |= {"arrays": arrays} if arrays else {}
    block |= {"weights": m.weights} if m.weights is not None else {}
    if m.padding is not None:
        block["padding"] = {
            "values": m.padding.values,
            "affine": json.dumps(m.padding.affine),
            "floor": m.padding.floor,
        }
    return MetaTensor(m.data, affine=affine, meta={META_KEY: block})


def from_tensor(tensor: Tensor) -> Measurement:
    """Return the measurement that a tensor holds; a plain image when it says nothing else.

    Raises:
        InputError: no metadata, and not an image (1, X, Y, Z).
    """
    data = tensor.as_subclass(Tensor)
    block = dict(tensor.meta).get(META_KEY) if isinstance(tensor, MetaTensor) else None
    block = block if isinstance(block, dict) else {}
    gaps, operator = block.get("gaps", (0.0, 0.0, 0.0)), None
    if "operator" in block:
        operator = json.loads(block["operator"]) | dict(block.get("arrays", {}))
    if "volume_shape" in block:
        geometry = geometry_of(block["volume_shape"], np.asarray(block["volume_affine"]), gaps)
    elif data.ndim == 4:
        geometry = geometry_of(data.shape[1:], tensor.affine if isinstance(tensor, MetaTensor) else None, gaps)
    else:
        raise InputError("not an image", where="inputs", expected="(1, X, Y, Z)", got=tuple(data.shape))
    return Measurement(
        data=data,
        geometry=geometry if block.get("oriented", True) else replace(geometry, affine=None),
        operator=operator,
        noise_std=float(block.get("noise_std", 0.0)),
        weights=block.get("weights"),
        unit=block.get("unit", "arbitrary"),
        source_sha256=block.get("source_sha256") or None,
        header=json.loads(block.get("header", "null")),
        notices=tuple(json.loads(block.get("notices", "[]"))),
        padding=_padding(block.get("padding")),
        simulated=bool(block.get("simulated", False)),
    )


def _padding(said: Any) -> Padding | None:
    if said is None:
        return None
    affine = tuple(tuple(row) for row in json.loads(said["affine"]))
    return Padding(torch.as_tensor(said["values"]), affine, float(said["floor"]))


def check_finite(x: Tensor, where: str) -> Tensor:
    """Return ``x`` if every entry is finite.

    Raises:
        InputError: some are not.
    """
    if not bool(torch.isfinite(torch.view_as_real(x) if x.is_complex() else x).all()):
        raise InputError("entries that are not finite", where=where, mend="repair the measurement")
    return x
