# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The page of a case: HTML, script and volumes in one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.numerics.statistics.order_statistics import percentiles
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.viewer.encoding import EncodedVolume, encode_within
from monai_diffrecon.viewer.layers import CaseLayers, Layer

#: Bytes of a page unless told otherwise.
PAGE_BYTES = 30_000_000
_TEMPLATE = Path(__file__).parent / "template"
_RESERVED = 100_000  # bytes for everything but the volumes
#: Directions of RAS+: against and along each axis.
_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
#: An axis is called by a second direction too, if it leans by more than 15 degrees.
_LEANING = 0.26
#: Narrow, wide end of the grey window that CT is shown in first (HU).
_SOFT_TISSUE = (-160.0, 240.0)


def write_page(path: str | Path, case: CaseLayers, *, limit: int = PAGE_BYTES) -> None:
    """Write the page of a case, atomically.

    Args:
        path: HTML file to write.
        case: what it shows.
        limit: bytes of the page; larger volumes are rounded more, and the page says by how much.

    Raises:
        InputError: it does not fit, or the folder cannot be written.
        ResourceError: the disk is full.
    """
    page = page_of(case, limit=limit)
    atomic_write(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def page_of(case: CaseLayers, *, limit: int = PAGE_BYTES) -> str:
    """Return the page of a case; arguments and errors as of :func:`write_page`."""
    for layer in case.layers:
        if tuple(layer.volume.shape) != (1, *case.geometry.shape) or not bool(torch.isfinite(layer.volume).all()):
            raise InputError(
                "not a volume of this case",
                where=layer.title,
                expected=f"finite numbers of shape {(1, *case.geometry.shape)}",
                got=tuple(layer.volume.shape),
            )
    encoded = encode_within([layer.volume[0].detach().cpu().numpy() for layer in case.layers], limit - _RESERVED)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html.j2").render(
        name=case.name, described=_json(description(case, encoded)), texts=[e.text for e in encoded]
    )


def description(case: CaseLayers, encoded: Sequence[EncodedVolume]) -> dict[str, Any]:
    """Return what the script of a page has to know, apart from the voxels.

    Args:
        case: what it shows.
        encoded: its volumes.
    """
    layers: list[dict[str, Any]] = [
        {"title": layer.title, "kind": layer.kind, "low": e.low, "step": e.step, "axis": e.axis, "exact": e.exact}
        for layer, e in zip(case.layers, encoded, strict=True)
    ]
    truth = next((n for n, layer in enumerate(case.layers) if layer.kind == "truth"), None)
    windows = {"intensity": _grey_window(case)}
    compared = [n for n, layer in enumerate(case.layers) if layer.kind in ("input", "reconstruction")]
    if truth is not None:
        layers += [{"title": f"error of {layers[n]['title']}", "kind": "error", "of": n} for n in compared]
        errors = ((x.volume - case.layers[truth].volume).abs() for x in case.layers if x.kind == "reconstruction")
        largest = max((_percentile(error, 99.5) for error in errors), default=0.0) or 1.0
        windows["error"] = (-largest, largest)
    spread = [_percentile(layer.volume, 99.5) for layer in case.layers if layer.kind == "spread"]
    windows |= {"spread": (0.0, max(spread) or 1.0)} if spread else {}
    windows |= {"phase": (-float(np.pi), float(np.pi))} if any(x.kind == "phase" for x in case.layers) else {}
    return {
        "shape": list(case.geometry.shape),
        "spacing": list(case.geometry.spacing),
        "affine": affine_of(case.geometry).tolist(),
        "ends": None if case.geometry.affine is None else [axis_ends(case.geometry, axis) for axis in range(3)],
        "unit": "" if case.unit == "arbitrary" else case.unit,
        "layers": layers,
        "truth": truth,
        "windows": windows,
    }


def axis_ends(geometry: VolumeGeometry, axis: int) -> tuple[str, str]:
    """Return the directions at the first and the last voxel of an axis, such as ``("L", "R")`` or ``("LA", "RP")``.

    Args:
        geometry: with an affine.
        axis: 0, 1 or 2.
    """
    column = affine_of(geometry)[:3, axis]
    cosines = column / np.linalg.norm(column)
    named = [n for n in np.argsort(-np.abs(cosines), kind="stable") if abs(cosines[n]) > _LEANING]
    last = "".join(_LETTERS[n][int(cosines[n] > 0)] for n in named)
    return "".join(_LETTERS[n][int(cosines[n] <= 0)] for n in named), last


def _grey_window(case: CaseLayers) -> tuple[float, float]:
    """Return the intensities that are shown black and white first: of the truth, else of the reconstruction."""
    if case.unit == "HU":
        return _SOFT_TISSUE
    by_kind: dict[str, Layer] = {layer.kind: layer for layer in reversed(case.layers)}
    shown = by_kind.get("truth", by_kind.get("reconstruction", case.layers[0])).volume
    low, high = _percentile(shown, 0.5), _percentile(shown, 99.8)
    return (low, high) if high > low else (low, low + 1.0)


def _percentile(volume: torch.Tensor, q: float) -> float:
    return float(percentiles(volume, [q])[0])


def _json(value: Any) -> str:
    """Return JSON that cannot end a script element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
