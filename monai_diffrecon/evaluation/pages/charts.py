# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Diagrams as SVG that takes its colours from the page, so that it is readable in light and dark, and printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

from monai_diffrecon.comparison.statistics import LEAST_PAIRS

_WIDTH, _NARROW, _LABEL, _ROW, _TOP, _BOTTOM, _RIGHT = 640, 470, 180, 26, 10, 42, 16

_MOST_KNOTS = 12


def forest_plot(title: str, rows: Mapping[str, tuple[float, float, float]], unit: str, note: str) -> Markup:
    """Return a forest plot: a point and an interval a method, and a line at zero.

    Args:
        title: description for screen readers.
        rows: method -> mean difference and the ends of its interval, which may be NaN.
        unit: text of the axis.
        note: which side is better.
    """
    ends = [v for row in rows.values() for v in row if math.isfinite(v)]
    scale, parts = _Scale([*ends, 0.0], width=_NARROW), []
    zero = scale(0.0)
    bottom = _TOP + _ROW * len(rows)
    parts.append(f'<line class="zero" x1="{zero}" x2="{zero}" y1="{_TOP}" y2="{bottom}"/>')
    for number, (label, (mean, low, high)) in enumerate(rows.items()):
        y = _TOP + _ROW * (number + 0.5)
        parts.append(_label(label, y))
        if math.isfinite(low) and math.isfinite(high):
            parts.append(f'<line class="interval" x1="{scale(low)}" x2="{scale(high)}" y1="{y}" y2="{y}"/>')
        if math.isfinite(mean):
            parts.append(f'<rect class="mark" x="{scale(mean) - 4:.1f}" y="{y - 4}" width="8" height="8"/>')
    return _svg(title, [*parts, *_axis(scale, bottom, f"{unit}; {note}")], bottom + _BOTTOM, _NARROW)


def box_plot(title: str, rows: Mapping[str, Sequence[float]], unit: str, *, zero: bool = False) -> Markup:
    """Return a dot a case, and for enough cases boxes (quartiles, median, whiskers to 1.5 interquartile ranges).

    Args:
        title: description for screen readers.
        rows: method -> values.
        unit: text of the axis.
        zero: differences: with a line at zero.
    """
    finite = {label: [v for v in values if math.isfinite(v)] for label, values in rows.items()}
    scale, parts = _Scale([*([0.0] if zero else []), *(v for values in finite.values() for v in values)]), []
    if zero:
        at = scale(0.0)
        parts.append(f'<line class="zero" x1="{at}" x2="{at}" y1="{_TOP}" y2="{_TOP + _ROW * len(rows)}"/>')
    for number, (label, values) in enumerate(finite.items()):
        y = _TOP + _ROW * (number + 0.5)
        parts.append(_label(label, y))
        if len(values) >= LEAST_PAIRS:
            first, median, third = np.quantile(values, [0.25, 0.5, 0.75])
            reach = 1.5 * (third - first)
            low = min(v for v in values if v >= first - reach)
            high = max(v for v in values if v <= third + reach)
            a, b, m = scale(first), scale(third), scale(median)
            parts.append(f'<line class="interval" x1="{scale(low)}" x2="{scale(high)}" y1="{y}" y2="{y}"/>')
            parts.append(f'<rect class="box" x="{a}" y="{y - 7}" width="{max(b - a, 1):.1f}" height="14"/>')
            parts.append(f'<line class="median" x1="{m}" x2="{m}" y1="{y - 7}" y2="{y + 7}"/>')
        parts += [f'<circle class="dot" cx="{scale(v)}" cy="{y}" r="3"/>' for v in values]
    bottom = _TOP + _ROW * len(rows)
    return _svg(title, [*parts, *_axis(scale, bottom, unit)], bottom + _BOTTOM)


def agreement_plot(
    title: str, pairs: Sequence[tuple[float, float]], bias: float, limits: tuple[float, float], span: float
) -> Markup:
    """Return a Bland-Altman plot: difference over mean of truth and reconstruction, bias and limits as lines.

    Args:
        title: description for screen readers.
        pairs: truth and reconstruction of some voxels.
        bias: mean difference of all voxels.
        limits: limits of agreement.
        span: differences shown, in both directions.
    """
    height, left = 240, 70
    x = _Scale([(a + b) / 2 for a, b in pairs], left=left)
    y = _Scale([-span, span], left=_TOP, right=_TOP, width=height, flip=True, margin=0.0)
    dots = [
        f"M{x((a + b) / 2)} {y(min(max(b - a, -span), span))}h0"
        for a, b in pairs
        if math.isfinite(a) and math.isfinite(b)
    ]
    parts = [f'<path class="cloud" d="{"".join(dots)}"/>']
    for value, name in ((bias, "zero"), (limits[0], "limit"), (limits[1], "limit")):
        if abs(value) <= span:
            parts.append(f'<line class="{name}" x1="{left}" x2="{_WIDTH - _RIGHT}" y1="{y(value)}" y2="{y(value)}"/>')
    for tick in y.ticks():
        parts.append(f'<text class="tick" x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    bottom = height - _TOP
    axis = _axis(x, bottom, "mean of truth and reconstruction; vertical: reconstruction minus truth")
    return _svg(title, [*parts, *axis], bottom + _BOTTOM)


def line_plot(
    title: str,
    curves: Mapping[str, Sequence[Sequence[float]]],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    ticks: Mapping[float, str] | None = None,
    diagonal: bool = False,
) -> Markup:
    """Return a line per method, dots at its points if they are few, and a band where they have an interval.

    Args:
        title: description for screen readers.
        curves: method -> points (x, y), or (x, y, low, high); ascending in x. What is not finite is left out.
        x_label: what goes to the right.
        y_label: what goes up.
        log_x: the axis to the right is logarithmic; all x are above 0.
        ticks: x -> text below the axis; None chooses round numbers.
        diagonal: both axes go from 0 to 1, with a line where y is x.
    """
    left, side, swatch = 70, 320, 24
    finite = {label: [p for p in curve if math.isfinite(p[1])] for label, curve in curves.items()}
    points = [p for curve in finite.values() for p in curve]
    spans = ([0.0, 1.0],) * 2 if diagonal else ([p[0] for p in points], [v for p in points for v in p[1:]])
    margin = 0.0 if diagonal else 0.05
    x = _Scale(spans[0], left=left, right=0, width=left + side, margin=margin, log=log_x)
    y = _Scale(spans[1], left=_TOP, right=0, width=_TOP + side, flip=True, margin=margin)
    parts = [f'<line class="zero" x1="{x(0)}" x2="{x(1)}" y1="{y(0)}" y2="{y(1)}"/>'] if diagonal else []
    for tick in y.ticks():
        parts.append(f'<text class="tick" x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    key = left + side + 16
    for number, (label, curve) in enumerate(finite.items()):
        # Colour and dashes both vary: 20 distinct lines, or 4 without colour vision.
        parts.append(f'<g class="colour{number % 5} dash{number % 4}">')
        held = [p for p in curve if len(p) == 4 and math.isfinite(p[2] + p[3])]
        if held:
            ends = [(p[0], p[3]) for p in held] + [(p[0], p[2]) for p in reversed(held)]
            parts.append(f'<polygon class="band" points="{" ".join(f"{x(a)},{y(b)}" for a, b in ends)}"/>')
        parts.append(f'<polyline class="curve" points="{" ".join(f"{x(p[0])},{y(p[1])}" for p in curve)}"/>')
        if len(curve) <= _MOST_KNOTS:
            parts += [f'<circle class="knot" cx="{x(p[0])}" cy="{y(p[1])}" r="3"/>' for p in curve]
        at = _TOP + _ROW * (number + 0.5)
        parts.append(f'<line class="curve" x1="{key}" x2="{key + swatch}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{key + swatch + 8}" y="{at + 4:.1f}">{escape(_short(label))}</text></g>')
    bottom = _TOP + side
    axis = _axis(x, bottom, f"{x_label}; vertical: {y_label}", ticks)
    return _svg(title, [*parts, *axis], max(bottom + _BOTTOM, _TOP + _ROW * len(curves)))


class _Scale:
    """Values to places on an axis."""

    def __init__(
        self,
        values: Sequence[float],
        *,
        left: float = _LABEL,
        right: float = _RIGHT,
        width: float = _WIDTH,
        flip: bool = False,
        margin: float = 0.05,
        log: bool = False,
    ) -> None:
        self._act: Callable[[float], float] = math.log10 if log else float
        finite = [self._act(v) for v in values if math.isfinite(v)] or [0.0]
        low, high = min(finite), max(finite)
        pad = margin * (high - low) or (abs(high) * 0.05 or 1.0) * (low == high)
        self.low, self.high = low - pad, high + pad
        self.left, self.length, self.flip = left, width - left - right, flip

    def __call__(self, value: float) -> float:
        part = (self._act(value) - self.low) / (self.high - self.low)
        return round(self.left + (1 - part if self.flip else part) * self.length, 1)

    def ticks(self) -> list[float]:
        """Return four to eight round numbers."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [float(f"{k * step:.6g}") for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _short(label: str) -> str:
    return label if len(label) <= 28 else label[:27] + "\u2026"


def _label(label: str, y: float) -> str:
    return f'<text x="{_LABEL - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(_short(label))}</text>'


def _axis(scale: _Scale, y: float, text: str, ticks: Mapping[float, str] | None = None) -> list[str]:
    right = scale.left + scale.length
    parts = [f'<line class="axis" x1="{scale.left}" x2="{right}" y1="{y}" y2="{y}"/>']
    for tick, said in ({tick: f"{tick:g}" for tick in scale.ticks()} if ticks is None else ticks).items():
        at = scale(tick)
        parts.append(f'<line class="axis" x1="{at}" x2="{at}" y1="{y}" y2="{y + 4}"/>')
        parts.append(f'<text class="tick" x="{at}" y="{y + 17}" text-anchor="middle">{escape(said)}</text>')
    parts.append(
        f'<text class="tick" x="{(scale.left + right) / 2}" y="{y + 34}" text-anchor="middle">{escape(text)}</text>'
    )
    return parts


def _svg(title: str, parts: Sequence[str], height: float, width: float = _WIDTH) -> Markup:
    head = f'<svg role="img" viewBox="0 0 {width} {height:.0f}" aria-label="{escape(title)}">'
    return Markup(f"{head}<title>{escape(title)}</title>{''.join(parts)}</svg>")
