# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of volumes beside each other, with their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon.comparison.dark_canvas import FAINT, DarkCanvas
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.statistics.order_statistics import percentiles
from monai_diffrecon.protocols import PLANE_AXIS

#: Plane -> letters of the right and of the upper edge of its picture: RAS+ axes run rightwards and upwards.
EDGES = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}

_ERROR_MAP = "inferno"
_COLUMN, _LEAST_ROW, _MOST_ROW = 2.1, 0.8, 3.6  # width of a column and height of a row of pictures, inches
_REFERENCE = "truth"


def montage(
    volumes: Mapping[str, Tensor],
    reference: Tensor,
    path: str | Path,
    *,
    title: str = "",
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    window: tuple[float, float] | None = None,
    error_scale: float | None = None,
    indices: Mapping[str, int] | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    std: Tensor | None = None,
) -> None:
    """Draw slices of volumes in three planes, and below each its error, to a PNG file.

    One column a volume and one for the truth; pictures are in plain RAS orientation (the patient's right is on
    the right), in true proportions, and share one grey window; error maps share one colour scale.

    Args:
        volumes: title -> volume (1, X, Y, Z), on the grid and in the unit of the reference.
        reference: the truth, (1, X, Y, Z).
        path: PNG file to write.
        title: title of the picture; no name of a patient.
        spacing: voxel size along (X, Y, Z) in mm.
        window: intensities shown black and white; None takes the 0.1th and 99.9th percentile of the reference.
        error_scale: absolute error shown brightest; None takes the 99.5th percentile of the errors shown.
        indices: plane -> slice to show; the middle one unless given.
        metrics: title -> result of ``volume_metrics``, to avoid computing it again. The column titles show the PSNR
            over the volume and the mean of the three planes' SSIM.
        std: standard deviation of the samples behind a volume, (1, X, Y, Z); shown below the truth, in the colours of
            the errors.

    Raises:
        InputError: no volume, or volumes that cannot be compared with the reference.
    """
    _check({**volumes, **({} if std is None else {"std": std})} if volumes else volumes, reference)
    known = metrics or {}
    scores = {name: known[name] if name in known else volume_metrics(v, reference) for name, v in volumes.items()}
    views = {plane: _slice(reference, plane, indices) for plane in EDGES}
    shown = {name: {plane: _slice(v, plane, indices) for plane in EDGES} for name, v in volumes.items()}
    errors = {name: {plane: np.abs(s[plane] - views[plane]) for plane in EDGES} for name, s in shown.items()}
    if error_scale is None:
        error_scale = float(
            np.percentile(np.concatenate([e.ravel() for row in errors.values() for e in row.values()]), 99.5)
        )
    error_scale = error_scale if error_scale > 0 else 1.0
    low, high = window or _window(reference)

    # Everything is placed in inches: the proportions are known, so no layout engine is needed.
    sizes = {plane: _size(views[plane].shape, spacing, plane) for plane in EDGES}
    rows = {plane: max(height, _LEAST_ROW) for plane, (_, height) in sizes.items()}
    gap, block_gap, left, right, bottom = 0.06, 0.16, 0.62, 0.16 if std is None else 0.86, 0.16
    top = 0.98 if title else 0.64
    figure_width = left + (len(volumes) + 1) * (_COLUMN + gap) - gap + right
    figure_height = top + 2 * sum(rows.values()) + 3 * gap + 2 * block_gap + bottom
    canvas = DarkCanvas(figure_width, figure_height)
    if title:
        canvas.text(figure_width / 2, 0.24, title, size=13, weight="bold")
    for column, name in enumerate([*volumes, _REFERENCE]):
        middle = left + column * (_COLUMN + gap) + _COLUMN / 2
        canvas.text(middle, top - 0.42, name, size=11, weight="bold")
        canvas.text(middle, top - 0.18, _score(scores.get(name)), size=9, color=FAINT)
    y = top
    for plane, row in rows.items():
        width, height = sizes[plane]
        below = y + row + gap
        canvas.text(0.2, y + row / 2, f"{plane} {_index(reference, plane, indices)}", size=10, rotation=90)
        canvas.text(0.2, below + row / 2, "|error|", size=9, color=FAINT, rotation=90)
        for column, name in enumerate([*volumes, _REFERENCE]):
            x = left + column * (_COLUMN + gap) + (_COLUMN - width) / 2
            slack = (row - height) / 2
            picture = shown[name][plane] if name in shown else views[plane]
            axes = canvas.image(x, y + slack, width, height, picture, "gray", low, high)
            if column == 0:
                canvas.edges(axes, *EDGES[plane])
            if name in errors:
                canvas.image(x, below + slack, width, height, errors[name][plane], _ERROR_MAP, 0.0, error_scale)
            elif std is not None:
                spread = _slice(std, plane, indices)
                axes = canvas.image(x, below + slack, width, height, spread, _ERROR_MAP, 0.0, error_scale)
                canvas.edges(axes, "", "std")
                edge = figure_width - right + 0.12
                canvas.colorbar(edge, below + 0.12 * row, 0.14, 0.76 * row, _ERROR_MAP, error_scale)
            else:
                middle = left + column * (_COLUMN + gap) + _COLUMN / 2
                canvas.colorbar(middle - 0.25, below + 0.12 * row, 0.14, 0.76 * row, _ERROR_MAP, error_scale)
        y = below + row + block_gap
    canvas.save(path)


def preview(
    volume: Tensor,
    path: str | Path,
    *,
    title: str = "",
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    window: tuple[float, float] | None = None,
) -> None:
    """Draw the three central slices of a volume side by side to a PNG file.

    Args:
        volume: (1, X, Y, Z), real.
        path: PNG file to write.
        title: title of the picture; no name of a patient.
        spacing: voxel size along (X, Y, Z) in mm.
        window: intensities shown black and white; None takes the 0.1th and 99.9th percentile.

    Raises:
        InputError: not a volume, or no voxel is finite.
    """
    views = {plane: _slice(volume, plane, None) for plane in EDGES}
    low, high = window or _window(volume)
    extents = {plane: _extent(views[plane].shape, spacing, plane) for plane in EDGES}
    scale = 1.5 * _COLUMN / max(max(extent) for extent in extents.values())
    gap, margin, top = 0.1, 0.16, 0.72 if title else 0.4
    tallest = max(height for _, height in extents.values()) * scale
    total = sum(width for width, _ in extents.values()) * scale + 2 * gap + 2 * margin
    canvas = DarkCanvas(total, top + tallest + margin)
    if title:
        canvas.text(total / 2, 0.24, title, size=13, weight="bold")
    x = margin
    for plane, view in views.items():
        width, height = (extent * scale for extent in extents[plane])
        canvas.text(x + width / 2, top - 0.18, f"{plane} {_index(volume, plane, None)}", size=10)
        axes = canvas.image(x, top + (tallest - height) / 2, width, height, view, "gray", low, high)
        canvas.edges(axes, *EDGES[plane])
        x += width + gap
    canvas.save(path)


def _slice(volume: Tensor, plane: str, indices: Mapping[str, int] | None) -> np.ndarray:
    index = _index(volume, plane, indices)
    return volume.detach().as_subclass(Tensor)[0].select(PLANE_AXIS[plane], index).float().cpu().numpy()


def _index(volume: Tensor, plane: str, indices: Mapping[str, int] | None) -> int:
    if volume.ndim != 4 or volume.shape[0] != 1 or volume.is_complex() or not volume.numel():
        raise InputError("not a volume", where="picture", expected="real (1, X, Y, Z)", got=tuple(volume.shape))
    count = volume.shape[PLANE_AXIS[plane] + 1]
    index = count // 2 if indices is None else int(indices.get(plane, count // 2))
    if not 0 <= index < count:
        raise InputError("no such slice", where=f"indices#{plane}", expected=f"0 to {count - 1}", got=index)
    return index


def _check(volumes: Mapping[str, Tensor], reference: Tensor) -> None:
    if not volumes or _REFERENCE in volumes:
        raise InputError(
            "no volume to show beside the truth" if not volumes else "the name of the reference's column",
            where="montage",
            expected=f"at least one volume, none called {_REFERENCE!r}",
            got=", ".join(volumes) or "none",
        )
    for name, volume in volumes.items():
        if volume.shape != reference.shape:
            raise InputError(
                "not on the grid of the reference",
                where=f"montage {name!r}",
                expected=tuple(reference.shape),
                got=tuple(volume.shape),
            )


def _size(shape: tuple[int, ...], spacing: Sequence[float], plane: str) -> tuple[float, float]:
    """Return width and height of a slice's picture in inches: as wide as the column, unless it were too tall."""
    width, height = _extent(shape, spacing, plane)
    scale = min(_COLUMN / width, _MOST_ROW / height)
    return width * scale, height * scale


def _extent(shape: tuple[int, ...], spacing: Sequence[float], plane: str) -> tuple[float, float]:
    """Return width and height of a slice in mm."""
    first, second = (s for axis, s in enumerate(spacing) if axis != PLANE_AXIS[plane])
    return shape[0] * first, shape[1] * second


def _window(volume: Tensor) -> tuple[float, float]:
    # With torch the choice of voxels would take eight volumes of indices.
    values = volume.detach().as_subclass(Tensor).float().cpu().numpy()
    mask = np.isfinite(values)
    finite = values if mask.all() else values[mask]
    if not finite.size:
        raise InputError("voxels that are not finite", where="picture")
    low, high = percentiles(torch.from_numpy(finite), (0.1, 99.9))
    return low, high if high > low else low + 1.0


def _score(metrics: Mapping[str, float] | None) -> str:
    if metrics is None:
        return "reference"
    ssim = float(np.mean([metrics[f"ssim_{plane}"] for plane in PLANE_AXIS]))
    return f"PSNR {metrics['psnr']:.2f} dB" + ("" if np.isnan(ssim) else f"   SSIM {ssim:.3f}")
