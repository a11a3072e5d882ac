# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A series of one slice, from a file in four dimensions to its frames."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

import monai_diffrecon as dr

SIZE, FRAMES = 32, 6


def moving() -> np.ndarray:
    """Return two slices of a disc with a smaller one that goes across it (X, Y, 2, T)."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 2, indexing="ij")
    disc = 0.5 / (1 + np.exp(20 * (np.hypot(x, y) - 0.8)))
    path = [0.5 * np.sin(2 * np.pi * t / FRAMES) for t in range(FRAMES)]
    frames = [disc + 0.5 / (1 + np.exp(20 * (np.hypot(x - at, y + 0.2) - 0.25))) for at in path]
    return np.stack([np.zeros((SIZE, SIZE, FRAMES)), np.stack(frames, -1)], 2).astype(np.float32)


def test_the_prior_along_time_beats_frames_by_themselves(tmp_path: Path) -> None:
    series, path = moving(), tmp_path / "cine.nii.gz"
    nib.save(nib.Nifti1Image(series, np.diag([1.0, 1.0, 8.0, 1.0])), path)
    truth, errors = torch.from_numpy(series[:, :, 1]), {}
    quick = {"sampler#steps": 6, "operator#acceleration": 4}
    for name, options in (("frames", {"consistency": {"name": "conjugate_gradient"}}), ("time", {})):
        method = dr.load("brain_mr", task="dynamic", overrides={**quick, **options})
        result = method.reconstruct(path, reader={"name": "nifti", "series": 1})
        assert result.volume.shape == (1, SIZE, SIZE, FRAMES)
        errors[name] = float((result.volume[0] - truth).norm() / truth.norm())
    assert result.geometry.affine is None
    result.save(tmp_path / "frames.nii.gz")
    assert nib.load(tmp_path / "frames.nii.gz").header["sform_code"] == 0
    assert errors["time"] < 0.8 * errors["frames"], errors
