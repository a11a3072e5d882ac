# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""From raw files to volumes by ``monai.bundle.run``, with the networks of the brain bundles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import monai.bundle
import pytest
import torch
from torch import Tensor

from diffrecon_mri.noncartesian.trajectories import radial
from diffrecon_mri.simulate import Receiver, write_fastmri, write_ismrmrd
from diffrecon_mri.synthetic_maps import birdcage_maps, smooth_phase
from monai_diffrecon import registry
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.protocols import Measurement

AXIAL = Path(__file__).parents[3] / "bundles" / "brain_mr_t1_axial"
SHAPE, STD = (40, 36, 12), 0.02


def head() -> Tensor:
    """A skull, and a brain with two ventricles, from 0 to 1."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    r = torch.hypot(x / 0.85, y / 0.9)
    brain = 0.65 + 0.15 * torch.cos(7 * x + 2 * z) * torch.cos(6 * y)
    volume = torch.where(r < 0.78, brain, torch.zeros(())) + 1.0 * ((r > 0.88) & (r < 1.0))
    return torch.where(torch.hypot((x.abs() - 0.2) / 0.12, y / 0.35) < 1, torch.full((), 0.2), volume)


MAGNITUDE, MAPS = head(), birdcage_maps(4, SHAPE)
VOLUME = MAGNITUDE * smooth_phase(SHAPE, seed=1, strength=0.7)


def write_radial(path: Path) -> Tensor:
    """Write half of full sampling with correlated noise; return the truth as the whitened maps shade it."""
    mix = torch.eye(4) + 0.2 * torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    covariance = (STD**2 * mix @ mix.T).to(torch.complex128)
    k = radial(SHAPE[:2], 34, 80, golden=True)
    receiver = Receiver(covariance=covariance, scans=64, seed=1)
    write_ismrmrd(path, VOLUME, MAPS, trajectory=k, shot=80, receiver=receiver)
    inverse = torch.linalg.inv(covariance).to(MAPS)
    return MAGNITUDE * torch.einsum("cxyz,cd,dxyz->xyz", MAPS.conj(), inverse, MAPS).real.sqrt()


def write_cartesian(path: Path) -> Tensor:
    """Write 18 of 36 lines; return the truth."""
    lines = torch.arange(36) % 4 == 0
    lines[12:24] = True
    write_fastmri(path, VOLUME, MAPS, mask=lines, receiver=Receiver(std=STD, seed=2))
    return MAGNITUDE


def reconstruct(path: Path, reader: str, **options: object) -> Tensor:
    """Run the bundle as the command does; return the complex volume (1, X, Y, Z)."""
    configs, output = AXIAL / "configs", path.parent / "out"
    monai.bundle.run(
        config_file=[str(configs / "inference.json"), str(configs / "tasks" / "raw_mri.json")],
        bundle_root=str(AXIAL),
        auxiliary_bundle="../brain_mr_t1_coronal",
        image=str(path),
        reader=reader,
        output_dir=str(output),
        case_name="case",
        logging_file=False,
        initialize=[],  # the error hook of a process of its own
        **{"device": "cpu", "evaluator#track": False, **options},
    )
    return torch.polar(*(read_volume(output / f"case_{part}.nii.gz")[0] for part in ("recon", "phase")))


def unexplained(m: Measurement, volume: Tensor) -> float:
    """Return the residual relative to the noise that was measured."""
    assert m.operator is not None
    residual = registry.build("operators", m.operator, geometry=m.geometry)(volume) - m.data
    measured = m.data != 0
    return float(residual[measured].abs().square().mean().sqrt()) / (2**0.5 * m.noise_std)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # MONAI says to trust what one runs
@pytest.mark.parametrize(("reader", "write"), [("ismrmrd", write_radial), ("fastmri", write_cartesian)])
def test_both_planes_explain_the_file_and_beat_the_classical_estimates(
    tmp_path: Path, reader: str, write: Callable[[Path], Tensor]
) -> None:
    path = tmp_path / "scan.h5"
    truth = write(path)
    m = registry.create("readers", reader).read(path)
    assert m.noise_std == pytest.approx(1.0 if reader == "ismrmrd" else STD, rel=0.5)
    samplers: dict[str, dict[str, object]] = {"networks": {}}
    samplers |= {name: {"sampler": {"name": name}} for name in ("initial", "cg_least_squares")}
    errors = {}
    for name, options in samplers.items():
        volume = reconstruct(path, reader, **options)
        errors[name] = float((volume[0].abs() - truth).norm() / truth.norm())
        if name == "networks":
            assert 0.6 < unexplained(m, volume) < 1.5
    assert errors["networks"] < 0.8 * errors["initial"]
    assert errors["networks"] < 0.9 * errors["cg_least_squares"]
