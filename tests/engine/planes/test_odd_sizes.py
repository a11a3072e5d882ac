# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes of any size: odd, prime, one slice, one row; windows and padding that leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.denoisers.direct import DirectDenoiser
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.planes.batched_plane_denoiser import BatchedPlaneDenoiser
from monai_diffrecon.engine.problem.simulation import Simulation, simulate
from monai_diffrecon.errors import DiffReconError
from monai_diffrecon.io.measurement.metatensor import geometry_of, to_tensor
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet
from monai_diffrecon.numerics.mri.sampling_masks import MASKS, sampling_mask
from monai_diffrecon.protocols import PLANE_AXIS

from ...raising import raises

SHAPES = [(37, 41, 1), (31, 1, 7), (1, 29, 4), (64, 48, 5), (1, 1, 1)]


class Affine(nn.Module):
    """``a x + b`` voxel by voxel, of slices whose sides are multiples of 4 only."""

    multiple = 4

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert x.shape[-2] % 4 == x.shape[-1] % 4 == 0
        return 0.5 * x + 0.25


def ramp(shape: tuple[int, int, int], slopes: tuple[float, float, float]) -> Tensor:
    """Return a linear image; a constant one without slopes."""
    axes = torch.meshgrid(*(torch.linspace(-0.5, 0.5, n) for n in shape), indexing="ij")
    return (0.3 + sum(s * a for s, a in zip(slopes, axes, strict=True)))[None]


@pytest.mark.parametrize("plane", list(PLANE_AXIS))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("slopes", [(0.0, 0.0, 0.0), (0.7, -0.4, 1.1)], ids=["constant", "linear"])
def test_windows_and_padding_leave_no_trace(
    shape: tuple[int, int, int], plane: str, slopes: tuple[float, float, float]
) -> None:
    """The weights with which windows are blended sum to 1 at every voxel, and what is padded is cropped again."""
    x = ramp(shape, slopes)
    for window in (None, (9, 7), (16, 16), (5, 48)):
        for overlap in (0.0, 0.6):
            out = BatchedPlaneDenoiser(DirectDenoiser(Affine()), plane, batch_size=5, window=window, overlap=overlap)(
                x, 0.1
            )
            torch.testing.assert_close(out, 0.5 * x + 0.25, rtol=0, atol=2e-6, msg=f"{window}, {overlap}")


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 13, 2), (1, 1, 1), (17, 1, 3)], ids=str)
def test_the_network_s_own_padding_is_that_of_the_planes(shape: tuple[int, int, int]) -> None:
    network = tiny()
    x = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    direct = network(x.permute(3, 0, 1, 2), 0.2).permute(1, 2, 3, 0)
    torch.testing.assert_close(BatchedPlaneDenoiser(DirectDenoiser(network), "axial")(x, 0.2), direct)


def tiny() -> BiasFreeUNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BiasFreeUNet(channels=(4, 8), units=1, bottleneck_units=1).eval().requires_grad_(False)


SCORE = ScoreNetwork(
    name="axial_bundle",
    version="1",
    network=tiny(),
    plane="axial",
    spacing=(1.0, 1.0),
    denoiser={"name": "direct", "sigma_min": 0.003, "sigma_max": 2.0},
    intensity={"map": "percentile", "q": 99.5},
    sha256="0" * 64,
    window=(24, 24),
)
BOTH = {"name": "perpendicular", "K": 2, "share": {"coronal": "axial", "sagittal": "axial"}}
METHODS: dict[str, dict[str, Any]] = {
    "pnp_hqs": {
        "sampler": {"name": "pnp_hqs", "steps": 2, "sigma_start": 0.2, "start": {"name": "admm_tv", "iterations": 3}},
        "prior": BOTH,
    },
    "dds": {
        "sampler": {"name": "ddim", "steps": 2, "sigma_start": 0.2},
        "consistency": {"name": "admm", "regularizers": [{"name": "z_tv", "threshold": 0.01}]},
    },
    "tpdm": {"sampler": {"name": "predictor_corrector", "steps": 2}, "consistency": {"name": "dps", "zeta": 1.0}},
}
OPERATORS: dict[str, dict[str, Any]] = {
    "thick": {"name": "slice_thickness", "thickness": 2.0},
    "parallel": {"name": "parallel_ct", "views": 7},
    "fan": {"name": "fan_ct", "views": 7, "source_distance": 200.0, "detector_distance": 300.0},
    "poisson": {"name": "cartesian_mri", "mask_type": "poisson", "acceleration": 2},
    "lines": {"name": "cartesian_mri", "mask_type": "uniform1d", "acceleration": 2, "complex_volume": True},
    "points": {"name": "cartesian_mri_3d", "mask_type": "gaussian2d", "acceleration": 2},
}


def measured(shape: tuple[int, int, int], operator: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return blobs in a box and their measurement."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in shape), indexing="ij")
    truth = (200 + 100 * torch.cos(3 * axes[0]) * torch.cos(2 * axes[1] + axes[2]))[None]
    truth = truth * torch.exp(0.3j * axes[0]) if operator.get("complex_volume") else truth
    return truth, to_tensor(simulate(truth, geometry_of(shape), Simulation(operator))[0])


@pytest.mark.parametrize("name", list(OPERATORS))
@pytest.mark.parametrize("shape", [(37, 41, 1), (31, 1, 7), (1, 29, 4), (30, 25, 13)], ids=str)
def test_every_size_is_reconstructed(shape: tuple[int, int, int], name: str) -> None:
    operator = OPERATORS[name]
    if name == "thick" and shape[2] == 1:
        operator = {**operator, "thickness": 1.0}
    truth, measurement = measured(shape, operator)
    for method, options in METHODS.items():
        done = DiffReconInferer(SCORE, operator, progress=False, **options).reconstruct(measurement)
        assert done.volume.shape == truth.shape
        assert done.volume.dtype == truth.dtype
        assert bool(torch.isfinite(torch.view_as_real(done.volume) if truth.is_complex() else done.volume).all())
        # Two steps from noise explain nothing; from a classical start the measurement must be explained.
        assert method == "tpdm" or done.report.steps[-1]["residual"] < (0.1 if method == "pnp_hqs" else 0.5)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", [(31, 1), (1, 29), (1, 1), (2, 3)], ids=str)
def test_a_mask_of_few_points(shape: tuple[int, int], kind: str) -> None:
    for acceleration in (1.0, 2.0, 8.0):
        mask = sampling_mask(kind, shape, acceleration, 0.0, 0)
        assert mask.shape == shape
        axes = shape[1:] if kind.endswith("1d") else shape
        lines = int(np.prod(axes))
        chosen = int(mask[0].sum()) if kind.endswith("1d") else int(mask.sum())
        assert chosen == max(round(lines / acceleration), 1)


@pytest.mark.parametrize(
    ("operator", "shape", "where", "got"),
    [
        (
            {"name": "slice_thickness", "thickness": 2.0},
            (9, 8, 1),
            "operator#thickness",
            "2 mm",
        ),
        ({"name": "rotation_ct", "views": 4}, (9, 8, 3), "operator rotation_ct", "(9, 8)"),
        ({"name": "cartesian_mri", "center_fraction": 0.5}, (9, 8, 3), "operator#center_fraction", "16"),
    ],
    ids=["one slice", "not square", "centre"],
)
def test_a_size_that_cannot_be(
    operator: dict[str, Any], shape: tuple[int, int, int], where: str, got: str | None
) -> None:
    with raises(DiffReconError, where=where, got=got):
        measured(shape, operator)


@pytest.mark.parametrize("shape", [(19, 1, 4), (13, 17, 1)], ids=str)
def test_the_command_writes_what_is_one_voxel_thin(
    shape: tuple[int, int, int], tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    """Files, pictures and the DICOM series, too; metrics that need more slices are left out."""
    bundle = make_bundle(tmp_path / "axial")
    write_volume(tmp_path / "scan.nii.gz", measured(shape, OPERATORS["parallel"])[0], geometry_of(shape))
    configs = bundle / "configs"
    with pytest.warns(UserWarning, match="parsing config_file"):
        monai.bundle.run(
            logging_file=False,
            config_file=[str(configs / "inference.json"), str(configs / "tasks/sparse_view_ct.json")],
            bundle_root=str(bundle),
            device="cpu",
            image=str(tmp_path / "scan.nii.gz"),
            output_dir=str(tmp_path / "out"),
            case_name="thin",
            output_format="both",
            initialize=[],
            **{"evaluator#track": False, "sampler#steps": 2, "operator#views": 7},
        )
    assert read_volume(tmp_path / "out/thin_recon.nii.gz")[0].shape == (1, *shape)
    assert len(list((tmp_path / "out/thin/dicom").glob("*.dcm"))) == shape[2]
    assert (tmp_path / "out/thin_montage.png").stat().st_size > 1000
