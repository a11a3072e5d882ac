# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Backgrounds that look like a body, drawn anew for each seed; no patient's scan is needed."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from monai_diffrecon.evaluation.image_quality.phantoms.phantom import INTENSITIES, painted
from monai_diffrecon.evaluation.image_quality.phantoms.shapes import Cylinder, Ellipsoid, voxel_centres
from monai_diffrecon.protocols import VolumeGeometry

#: Exponent of the power spectrum of tissue texture (Burgess, Jacobson and Judy 2001, Med Phys 28:419).
_TEXTURE = 3.0


def abdomen(geometry: VolumeGeometry, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a slab of a body in HU: fat, muscle, organs with texture, a spine, vessels, gas.

    Args:
        geometry: the grid.
        seed: of sizes, places and texture.

    Returns:
        The volume (X, Y, Z), and where soft tissue is (X, Y, Z), bool.
    """
    generator = np.random.default_rng([seed, 1])
    half = [0.46 * n * s for n, s in zip(geometry.shape[:2], geometry.spacing[:2], strict=True)]
    a, b = half[0], 0.86 * half[1]
    volume = np.full(geometry.shape, INTENSITIES["CT"][0])
    # Organs end within the slab, the wall and the spine go through it.
    painted(volume, geometry, Cylinder((0.0, 0.0, 0.0), (a, b), np.inf), -100.0)
    painted(volume, geometry, Cylinder((0.0, 0.0, 0.0), (0.92 * a, 0.9 * b), np.inf), 55.0)
    painted(volume, geometry, Cylinder((0.0, 0.05 * b, 0.0), (0.84 * a, 0.78 * b), np.inf), -90.0)
    liver = generator.uniform(0.9, 1.1)
    painted(volume, geometry, Ellipsoid((0.33 * a, 0.1 * b, 0.0), (0.46 * a, 0.56 * b * liver, 80.0)), 60.0)
    painted(volume, geometry, Ellipsoid((-0.4 * a, 0.05 * b, 10.0), (0.36 * a, 0.5 * b * liver, 60.0)), 48.0)
    for _ in range(6):
        place = (generator.uniform(-0.5, 0.2) * a, generator.uniform(-0.1, 0.6) * b, generator.uniform(-20, 20))
        radii = tuple(generator.uniform(6.0, 14.0, 3))
        painted(volume, geometry, Ellipsoid(place, (radii[0], radii[1], radii[2])), generator.uniform(25.0, 45.0))
    gas = (-0.3 * a, 0.62 * b, generator.uniform(-8, 8))
    painted(volume, geometry, Ellipsoid(gas, (9.0, 5.0, 14.0)), -900.0)
    painted(volume, geometry, Cylinder((0.0, -0.52 * b, 0.0), (0.2 * a, 0.2 * b), np.inf), 420.0)
    painted(volume, geometry, Cylinder((0.0, -0.52 * b, 0.0), (0.165 * a, 0.165 * b), np.inf), 180.0)
    painted(volume, geometry, Cylinder((0.02 * a, -0.24 * b, 0.0), (0.09 * a, 0.09 * b), np.inf), 45.0)
    soft = (volume > 20.0) & (volume < 80.0)
    return volume + 8.0 * texture(geometry, seed) * soft, soft


def head(geometry: VolumeGeometry, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a head as of T1-weighted MR, in thousandths of white matter: scalp, skull, fluid, folded cortex, nuclei.

    Args:
        geometry: the grid.
        seed: of the folds, sizes and texture.

    Returns:
        The volume (X, Y, Z), and where white matter is (X, Y, Z), bool.
    """
    generator = np.random.default_rng([seed, 2])
    half = [0.46 * n * s for n, s in zip(geometry.shape[:2], geometry.spacing[:2], strict=True)]
    x, y, z = (v.astype(float) for v in np.meshgrid(*voxel_centres(geometry), indexing="ij"))
    radius = np.sqrt((x / half[0]) ** 2 + (y / half[1]) ** 2 + (z / (1.4 * max(half))) ** 2)
    mm = min(half)  # what a step of one in the relative radius is
    folds = np.zeros(geometry.shape)
    for _ in range(12):
        wave = generator.normal(size=3)
        wave *= generator.uniform(0.35, 0.7) / np.linalg.norm(wave)
        folds += np.cos(wave[0] * x + wave[1] * y + wave[2] * z + generator.uniform(0, 2 * np.pi))
    folds /= np.abs(folds).max() * mm / 6.0  # up to 6 mm deep

    def edge(r: float, shift: np.ndarray | float = 0.0) -> np.ndarray:
        """Return 1 within a relative radius and 0 outside, over about a voxel."""
        return 1.0 / (1.0 + np.exp((radius + shift - r) * mm / (0.3 * geometry.spacing[0])))

    volume = 850.0 * edge(1.0) * (1.0 + 0.08 * texture(geometry, seed + 1))
    volume += (90.0 - volume) * edge(0.93)
    volume += (250.0 - volume) * edge(0.86)
    volume += (650.0 - volume) * edge(0.83, folds)
    white = edge(0.83 - 4.0 / mm, 1.6 * folds)
    volume += (1000.0 - volume) * white
    for side in (-1, 1):
        nucleus = Ellipsoid((side * 0.3 * half[0], 0.05 * half[1], 0.0), (0.1 * half[0], 0.17 * half[1], 14.0))
        painted(volume, geometry, nucleus, 700.0)
        horn = Ellipsoid((side * 0.12 * half[0], 0.1 * half[1], 0.0), (0.06 * half[0], 0.26 * half[1], 18.0))
        painted(volume, geometry, horn, 230.0)
    brain = (volume > 550.0) & (radius < 0.83)
    volume = volume + 15.0 * texture(geometry, seed) * brain
    return np.maximum(volume, 0.0), (white > 0.99) & (np.abs(volume - 1000.0) < 120.0)


def texture(geometry: VolumeGeometry, seed: int) -> np.ndarray:
    """Return noise of zero mean and unit deviation whose power falls with the third power of the frequency.

    Args:
        geometry: the grid.
        seed: of the noise.
    """
    white = np.random.default_rng([seed, 3]).normal(size=geometry.shape)
    axes = np.meshgrid(
        *(np.fft.fftfreq(n, s) for n, s in zip(geometry.shape, geometry.spacing, strict=True)), indexing="ij"
    )
    frequency = np.sqrt(sum(f**2 for f in axes))
    gain = np.maximum(frequency, 0.01) ** (-_TEXTURE / 2)
    gain[0, 0, 0] = 0.0
    noise = np.fft.ifftn(np.fft.fftn(white) * gain).real
    noise = gaussian_filter(noise, [0.5 / s for s in geometry.spacing])
    return np.asarray(noise / noise.std())


#: Modality -> its body.
BODIES = {"CT": abdomen, "MR": head}
