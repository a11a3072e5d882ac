# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Give small files of real scanners to the readers and to the default command, and check what happens.

    python scripts/check_real_scans.py FOLDER

FOLDER holds ``mr_sagittal_thick/`` and ``ct_gantry_tilt/`` (DICOM series), ``mr_phase/`` (a DICOM series of phases),
``twix/gre.dat`` (Siemens raw data) and ``sinogram/tooth_2rows.h5`` (DXchange projections). Prints a line a check and
ends with 1 when one fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from monai_diffrecon.engine.problem.measured_operator import build_operator
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.io.straight import corrected_tilt

ROOT = Path(__file__).resolve().parent.parent


def run(scan: Path, output: Path, *options: str) -> tuple[int, str]:
    """Run the default command of the brain bundle; return the exit code and what it wrote on stderr."""
    bundle = ROOT / "bundles" / "brain_mr"
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run"]
    command += ["--config_file", str(bundle / "configs/inference.json"), "--bundle_root", str(bundle)]
    command += ["--image", str(scan), "--output_dir", str(output), "--case_name", "real", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=output)
    return done.returncode, done.stderr


def sagittal(folder: Path, output: Path) -> str:
    """Thick sagittal slices are reconstructed along X, across their gaps."""
    _, measured = read_scan(folder / "mr_sagittal_thick")
    assert measured.geometry.gaps[0] > 0.5, measured.geometry
    code, errors = run(folder / "mr_sagittal_thick", output, "--resample", "true", "--sampler#steps", "3")
    assert code == 0, errors[-500:]
    image = nib.load(output / "real_recon.nii.gz")
    assert np.allclose(image.header.get_zooms(), 1.0, atol=0.02), image.header.get_zooms()
    thickness = measured.geometry.spacing[0] * measured.geometry.shape[0]
    assert abs(image.shape[0] - thickness) < 2, (image.shape, thickness)
    record = json.loads((output / "real_recon.provenance.json").read_text())
    assert record["config"]["operator"]["plane"] == "sagittal", record["config"]["operator"]
    return f"{image.shape[0]} slices of 1 mm along X from {measured.geometry.shape[0]}"


def phases(folder: Path, output: Path) -> str:
    """Images of the phase are refused in one line."""
    code, errors = run(folder / "mr_phase", output)
    line = errors.strip().splitlines()[-1]
    assert code == 2, (code, line)
    assert "phase" in line.lower(), line
    return line[:100]


def tilted(folder: Path, output: Path) -> str:
    """A tilted gantry is refused, or corrected when that is asked for."""
    code, errors = run(folder / "ct_gantry_tilt", output)
    assert code == 2, (code, errors[-300:])
    assert "correct_tilt" in errors.strip().splitlines()[-1], errors[-300:]
    _, measured = read_scan(folder / "ct_gantry_tilt", leaning=True)
    straight, degrees = corrected_tilt(measured, "scan")
    axes = np.asarray(straight.geometry.affine)[:3, :3]
    axes = axes / np.linalg.norm(axes, axis=0)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-4), axes
    return f"{degrees:.1f} degrees: refused by itself, at right angles with correct_tilt"


def twix(folder: Path, output: Path) -> str:
    """Siemens raw data come with the geometry of their header."""
    name, measured = read_scan(folder / "twix" / "gre.dat")
    assert name == "twix", name
    assert measured.operator is not None
    assert measured.geometry.affine is not None
    estimate = build_operator(measured.operator, measured.geometry).initial(measured.data).abs()
    inside = float(estimate[estimate > 0.1 * estimate.max()].mean())
    assert inside > 0
    return f"{measured.geometry.shape}, {tuple(round(s, 3) for s in measured.geometry.spacing)} mm"


def tooth(folder: Path, output: Path) -> str:
    """Projections become line integrals about the axis of rotation; beside it objects are doubled."""
    name, measured = read_scan(folder / "sinogram" / "tooth_2rows.h5")
    assert name == "dxchange", name
    assert measured.operator is not None

    def doubling(shift: float) -> float:
        spec = measured.operator | {"detector_offset": measured.operator["detector_offset"] + shift}
        # A wrong axis tears edges apart, and the halves have negative values beside them.
        return float(build_operator(spec, measured.geometry).initial(measured.data).abs().mean())

    step = 4 * measured.geometry.spacing[0]
    best, *others = (doubling(shift) for shift in (0.0, -step, step))
    assert best < min(others), (best, others)
    return f"axis {measured.operator['detector_offset']:.3g} beside the middle"


CHECKS: tuple[Callable[[Path, Path], str], ...] = (sagittal, phases, tilted, twix, tooth)


def main() -> int:
    """Check everything that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    failed = 0
    for check in CHECKS:
        with tempfile.TemporaryDirectory() as output:
            try:
                print(f"ok      {check.__name__}: {check(folder, Path(output))}", flush=True)
            except Exception as error:
                failed += 1
                print(f"FAILED  {check.__name__}: {type(error).__name__}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
