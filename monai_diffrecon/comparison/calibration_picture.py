# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Calibration curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monai_diffrecon.comparison.calibration import Coverage
from monai_diffrecon.comparison.dark_canvas import BACKGROUND, FAINT, TEXT, DarkCanvas
from monai_diffrecon.errors import InputError

_COLORS = ("#4cc9f0", "#f9c74f", "#f94144", "#90be6d", "#c77dff", "#f3722c")
_SIDE, _LEFT, _TOP, _BOTTOM, _RIGHT = 3.6, 0.75, 0.6, 0.65, 0.3


def calibration_canvas(curves: Mapping[str, Coverage], *, title: str = "calibration") -> DarkCanvas:
    """Return a picture of observed over nominal coverage; a curve on the diagonal is calibrated.

    Below the diagonal the samples spread too little, above it too much. ``.figure`` is matplotlib's own.

    Args:
        curves: label -> coverage, at most six.
        title: title; no name of a patient.

    Raises:
        InputError: no curve, or too many to tell apart.
    """
    if not 1 <= len(curves) <= len(_COLORS):
        raise InputError("no calibration curves", where="curves", expected=f"1 to {len(_COLORS)}", got=len(curves))
    canvas = DarkCanvas(_LEFT + _SIDE + _RIGHT, _TOP + _SIDE + _BOTTOM)
    canvas.text(_LEFT + _SIDE / 2, _TOP / 2, title, size=13, weight="bold")
    axes = canvas.axes(_LEFT, _TOP, _SIDE, _SIDE)
    axes.set_facecolor(BACKGROUND)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
    for color, (label, curve) in zip(_COLORS, curves.items(), strict=False):
        name = f"{label} (ECE {curve.expected_calibration_error:.3f})"
        axes.plot(
            curve.nominal, curve.observed, color=color, marker="o", markersize=3.5, label=name.replace("$", r"\$")
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("nominal coverage", color=TEXT, fontsize=10)
    axes.set_ylabel("observed coverage", color=TEXT, fontsize=10)
    axes.tick_params(colors=FAINT, labelsize=8, length=2)
    for spine in axes.spines.values():
        spine.set_edgecolor(FAINT)
    axes.legend(loc="upper left", fontsize=8, facecolor=BACKGROUND, edgecolor=FAINT, labelcolor=TEXT)
    return canvas


def draw_calibration(curves: Mapping[str, Coverage], path: str | Path, *, title: str = "calibration") -> None:
    """Draw calibration curves to a PNG file; see :func:`calibration_canvas`."""
    calibration_canvas(curves, title=title).save(path)
