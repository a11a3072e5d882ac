# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of all methods in one row, on one grey scale."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps, image

from monai_diffrecon.evaluation.image_quality.study.measured import Measured
from monai_diffrecon.protocols import Picture

#: Pictures are enlarged to about so many pixels.
_WIDTH = 640


@dataclass(frozen=True)
class PictureRow:
    """Pictures as a page shows them.

    Attributes:
        rows: (label, PNG as a data address), the truth first where there is one.
        columns: captions of the parts of each picture, from left to right; may be empty.
    """

    rows: list[tuple[str, str]]
    columns: tuple[str, ...]


def picture_row(measured: Measured, key: str) -> PictureRow | None:
    """Return the pictures of all methods under a key, or None when there are none."""
    found = {label: picture for label in measured.labels if (picture := measured.picture(label, key)) is not None}
    if not found:
        return None
    first = next(iter(found.values()))
    images = {label: picture.image for label, picture in found.items()}
    if first.reference is not None:
        images = {"Truth": first.reference, **images}
    low, high = _scale(first, list(images.values()))
    return PictureRow([(label, _png(shown, low, high)) for label, shown in images.items()], first.columns)


def _scale(first: Picture, images: list[np.ndarray]) -> tuple[float, float]:
    if first.signed:
        end = max(float(np.nanquantile(np.abs(shown), 0.995)) for shown in images) or 1.0
        return -end, end
    of = images[:1] if first.reference is not None else images
    low, high = (float(np.nanquantile(np.concatenate([i.ravel() for i in of]), q)) for q in (0.005, 0.995))
    margin = 0.3 * (high - low) if first.reference is not None else 0.0
    return low - margin, max(high + margin, low - margin + 1e-6)


def _png(shown: np.ndarray, low: float, high: float) -> str:
    times = max(round(_WIDTH / shown.shape[1]), 1) if shown.shape[1] < _WIDTH else 1
    large = np.kron(shown, np.ones((times, times)))
    buffer = io.BytesIO()
    grey = colormaps["gray"].with_extremes(bad="#9fb3d1")
    image.imsave(buffer, large, vmin=low, vmax=high, cmap=grey, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
