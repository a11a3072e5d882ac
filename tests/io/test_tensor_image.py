# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Images handed over as tensors become what a reader makes of their file."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.metatensor import affine_of, from_tensor, to_tensor
from monai_diffrecon.io.measurement.tensor_image import image_of

from ..raising import raises

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (3, 4, 5)).astype(np.int16)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SAL", "ARI"])
def test_axes_are_those_of_nibabel(codes: str) -> None:
    turned = nib.orientations.axcodes2ornt(codes)
    affine = np.diag([1.0, 2.0, 3.0, 1.0]) @ nib.orientations.inv_ornt_aff(turned, VOXELS.shape)
    expected = nib.as_closest_canonical(nib.Nifti1Image(VOXELS, affine))
    image = image_of(MetaTensor(torch.from_numpy(VOXELS), affine=torch.as_tensor(affine)), "image")
    assert image is not None
    assert image.data.dtype == torch.float32
    assert np.array_equal(image.data[0].numpy(), np.asarray(expected.dataobj))
    assert np.array_equal(affine_of(image.geometry), expected.affine)


def test_what_is_an_image_already_is_left_alone() -> None:
    plain = torch.from_numpy(VOXELS)[None].float()
    for tensor in (plain, MetaTensor(plain), plain[..., 0, 0], torch.cat([plain, plain])):
        assert image_of(tensor, "image") is None
    image = image_of(plain[0], "image")
    assert image is not None
    assert image.geometry.spacing == (1.0, 1.0, 1.0)
    read = to_tensor(image)
    assert image_of(read, "image") is None
    assert from_tensor(read).geometry == image.geometry


def test_an_affine_of_no_place_is_refused() -> None:
    with raises(InputError, where="image"):
        image_of(MetaTensor(torch.from_numpy(VOXELS), affine=torch.zeros(4, 4)), "image")
