# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A dark figure of exact proportions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_diffrecon.io.atomic import atomic_write

BACKGROUND, TEXT, FAINT = "#101214", "#f0f0f0", "#9aa0a6"
_DPI = 150


class DarkCanvas:
    """A dark figure on which things are placed in inches from the top left.

    Uses matplotlib's object interface only: pyplot would keep every figure and choose a backend.

    Args:
        width: width in inches.
        height: height in inches.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=BACKGROUND)
        FigureCanvasAgg(self.figure)

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        """Return new axes in a box."""
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def image(
        self, x: float, y: float, width: float, height: float, view: np.ndarray, cmap: str, low: float, high: float
    ) -> Any:
        """Fill a box with a slice whose first axis runs rightwards and whose second runs upwards."""
        axes = self.axes(x, y, width, height)
        axes.imshow(view.T, origin="lower", cmap=cmap, vmin=low, vmax=high, aspect="auto")
        axes.set_axis_off()
        return axes

    def edges(self, axes: Any, right: str, upper: str) -> None:
        """Write what lies behind the right and the upper edge of an image, readable on any ground."""
        style = {"color": TEXT, "fontsize": 8, "transform": axes.transAxes}
        outline = [patheffects.withStroke(linewidth=2, foreground="black")]
        axes.text(0.97, 0.5, right, ha="right", va="center", path_effects=outline, **style)
        axes.text(0.5, 0.98, upper, ha="center", va="top", path_effects=outline, **style)

    def colorbar(self, x: float, y: float, width: float, height: float, cmap: str, largest: float) -> None:
        """Fill a box with the colours from 0 to ``largest`` and beyond, numbers to its right."""
        axes = self.axes(x, y, width, height)
        mappable = mpl.cm.ScalarMappable(norm=mpl.colors.Normalize(0.0, largest), cmap=cmap)
        bar = self.figure.colorbar(mappable, cax=axes, extend="max", ticks=[0.0, largest / 2, largest], format="%.3g")
        bar.outline.set_edgecolor(FAINT)
        axes.tick_params(colors=FAINT, labelsize=8, length=2)

    def text(self, x: float, y: float, text: str, *, size: float, color: str = TEXT, **style: Any) -> None:
        """Write a line centred on a point."""
        # No math mode: a dollar sign in a name is literal.
        place = (x / self.width, 1 - y / self.height)
        self.figure.text(*place, text, fontsize=size, color=color, ha="center", va="center", parse_math=False, **style)

    def save(self, path: str | Path) -> None:
        """Write the figure as PNG, atomically."""
        atomic_write(path, lambda temporary: self.figure.savefig(temporary, format="png", dpi=_DPI))
