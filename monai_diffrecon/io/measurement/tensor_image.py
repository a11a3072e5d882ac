# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Images that other programs hand over as tensors."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.checks import check_affine
from monai_diffrecon.io.measurement.metatensor import META_KEY, geometry_of
from monai_diffrecon.protocols import Measurement


def image_of(tensor: Tensor, where: str) -> Measurement | None:
    """Return the image (1, X, Y, Z) in RAS+ order that a tensor of another program holds; None for one that is so.

    Axes are flipped and swapped, never resampled, as by a reader. Integers become float32. Without an affine the axes
    stay as they are.

    Args:
        tensor: (X, Y, Z) or (1, X, Y, Z), and of a ``MetaTensor`` the affine, voxels to RAS+ (mm). What is no image, or
            was read by :class:`~monai_diffrecon.engine.transforms.load_measurement.LoadMeasurementd`, is None.
        where: name for messages.

    Raises:
        InputError: no voxels, or an impossible affine.
    """
    if (isinstance(tensor, MetaTensor) and META_KEY in tensor.meta) or not _is_image(tensor):
        return None
    if not tensor.numel():
        raise InputError("no voxels", where=where, got=tuple(tensor.shape))
    data = tensor.as_subclass(Tensor)
    data = data if data.ndim == 4 else data[None]
    data = data if data.is_floating_point() or data.is_complex() else data.to(torch.float32)
    affine = np.asarray(tensor.affine.cpu(), dtype=np.float64) if isinstance(tensor, MetaTensor) else np.eye(4)
    check_affine(affine, where)
    orientation = nib.io_orientation(affine)
    order, signs = np.argsort(orientation[:, 0]), orientation[:, 1]
    if data.shape == tensor.shape and data.dtype == tensor.dtype and (signs > 0).all() and (order == range(3)).all():
        return None
    affine = affine @ nib.orientations.inv_ornt_aff(orientation, data.shape[1:])
    data = data.flip([axis + 1 for axis in range(3) if signs[axis] < 0]).permute(0, *(int(a) + 1 for a in order))
    return Measurement(data=data.contiguous(), geometry=geometry_of(data.shape[1:], affine))


def _is_image(tensor: Tensor) -> bool:
    return tensor.ndim == 3 or (tensor.ndim == 4 and tensor.shape[0] == 1)
