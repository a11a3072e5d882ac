# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""DXchange files of ellipses, whose line integrals are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

#: Pixel size at the object, mm.
PIXEL = 0.05
#: Ellipses: centre x and y, semi-axes, turn (degrees), attenuation (1/mm) added; lengths in pixels. All off-centre.
ELLIPSES = ((6.0, -9.0, 26.0, 18.0, 20.0, 0.3), (15.0, -4.0, 5.0, 8.0, 50.0, 0.2), (-4.0, -14.0, 7.0, 4.0, 0.0, -0.2))
#: Part of the attenuation in each row.
ROWS = (1.0, 0.7, 0.4)


def line_integrals(degrees: np.ndarray, center: float, columns: int) -> np.ndarray:
    """Return the line integrals (views, rows, columns), without a unit, along x cos + y sin = (column - center)."""
    at = np.arange(columns) - center
    sums = np.zeros((len(degrees), columns))
    theta = np.deg2rad(degrees)[:, None]
    for x, y, a, b, turn, value in ELLIPSES:
        across = (a * np.cos(theta - np.deg2rad(turn))) ** 2 + (b * np.sin(theta - np.deg2rad(turn))) ** 2
        inside = across - (at - x * np.cos(theta) - y * np.sin(theta)) ** 2
        sums += value * 2 * a * b * np.sqrt(np.maximum(inside, 0.0)) / across
    return sums[:, None] * np.asarray(ROWS)[:, None] * PIXEL


def phantom(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return attenuation (X, Y, rows) in 1/mm about the axis, and where it is constant for 3 pixels around (X, Y)."""
    at = np.arange(columns) - (columns - 1) / 2
    x, y = np.meshgrid(at, at, indexing="ij")
    image, flat = np.zeros(x.shape), np.ones(x.shape, dtype=bool)
    for x0, y0, a, b, turn, value in ELLIPSES:
        c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
        u, v = (x - x0) * c + (y - y0) * s, (y - y0) * c - (x - x0) * s
        image += value * (np.hypot(u / a, v / b) <= 1.0)
        flat &= (np.hypot(u / (a - 3), v / (b - 3)) <= 1.0) | (np.hypot(u / (a + 3), v / (b + 3)) >= 1.0)
    return image[..., None] * np.asarray(ROWS), flat


def write_dxchange(
    path: Path, degrees: np.ndarray, *, center: float = 45.3, columns: int = 96, packed: bool = False
) -> Path:
    """Write a scan with uneven pixels: counts of 16 bits, 4 white and 6 dark fields."""
    rng = np.random.default_rng(0)
    lines = line_integrals(degrees, center, columns)
    dark = 100.0 + 20.0 * rng.random(lines.shape[1:])
    beam = 30000.0 * (0.6 + 0.4 * rng.random(lines.shape[1:])) * (1.0 + 0.3 * np.sin(np.arange(columns) / 9.0))
    noise = rng.integers(-2, 3, (6, *dark.shape))
    options: dict[str, Any] = {"compression": "gzip", "chunks": True} if packed else {}
    with h5py.File(path, "w") as file:
        for name, counts in (
            ("data", dark + beam * np.exp(-lines)),
            ("data_white", np.repeat((dark + beam)[None], 4, axis=0)),
            ("data_dark", dark + noise - noise.mean(axis=0)),
        ):
            file.create_dataset(f"exchange/{name}", data=np.round(counts).astype(np.uint16), **options)
        file["exchange/theta"] = degrees
        file["exchange/theta"].attrs["units"] = "degrees"
    return path
