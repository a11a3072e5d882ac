# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Projections by diffct: the same scans as RTK's, and an exact adjoint."""

import sys

import pytest
import torch

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import VolumeGeometry

NEAR = {"source_distance": 60.0, "detector_distance": 100.0}
#: Several pixels a voxel: the edges of its constant voxels average out.
FINE = {"detectors": [60, 44], "detector_spacing": [0.7, 0.8], **NEAR}
SCANS = [
    pytest.param({"views": 5, **FINE}, id="circle"),
    pytest.param({"views": 5, "arc": 800.0, "pitch": 6.0, **FINE}, id="helix"),
    pytest.param({"views": 5, **FINE, "detectors": [40, 44], "detector_offset": [12.0, -1.0]}, id="half fan"),
    pytest.param(
        {
            "views": 4,
            **FINE,
            "deviations": {
                "source_to_isocenter": [0.5, -0.5, 1.0, 0.0],
                "projection_offset_x": [3.0, -2.0, 1.0, 0.5],
                "projection_offset_y": 2.0,
                "out_of_plane_angle": [5.0, -3.0, 0.0, 9.0],
                "in_plane_angle": [10.0, -20.0, 5.0, 0.0],
                "source_offset_x": [2.0, 0.5, -1.0, 0.0],
                "source_offset_y": -1.5,
            },
        },
        id="deviating",
    ),
]
GEOMETRY = VolumeGeometry((16, 14, 12), (1.0, 1.2, 0.9))


def test_diffct_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffct", None)
    with pytest.raises(ConfigError) as caught:
        registry.create("operators", "cone_beam_ct", geometry=GEOMETRY, views=5, projector="diffct", **NEAR)
    assert (caught.value.where, caught.value.mend) == ("operator#projector", "pip install diffrecon-rtk[diffct]")


def moments(y: torch.Tensor) -> torch.Tensor:
    """Return sum, and centre along u and v in pixels, of each view: (views, 3)."""
    u, v = (torch.arange(n, dtype=y.dtype) for n in y.shape[1:])
    total = y.sum((1, 2))
    return torch.stack([total, (y.sum(2) @ u) / total, (y.sum(1) @ v) / total], 1)


@pytest.mark.parametrize("options", SCANS)
def test_the_same_scan_as_rtk(options: dict) -> None:
    """Mirrored, shifted or turned views would have other moments; single line integrals differ by the voxels' edges."""
    pytest.importorskip("diffct")
    rtk, other = (
        registry.create("operators", "cone_beam_ct", geometry=GEOMETRY, projector=name, **options)
        for name in ("rtk", "diffct")
    )
    axes = [(torch.arange(n) - (n - 1) / 2) * d for n, d in zip(GEOMETRY.shape, GEOMETRY.spacing, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    blob = torch.exp(-((x - 2.0) ** 2 + (y + 1.5) ** 2 / 2.0 + (z - 1.0) ** 2) / 12.0)[None].double()
    found, wanted = other.forward(blob), rtk.forward(blob)
    assert float((found - wanted).norm() / wanted.norm()) < 0.08
    apart = (moments(found) - moments(wanted)).abs() / torch.tensor([float(moments(wanted)[:, 0].max()), 1.0, 1.0])
    assert float(apart[:, 0].max()) < 0.02
    assert float(apart[:, 1:].max()) < 0.1
    # The exact adjoint, and slabs add up.
    noise = torch.randn(found.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float((found * noise).sum()) == pytest.approx(float((blob * other.adjoint(noise)).sum()), rel=1e-10)
    parts = [other.restricted("axial", a, b).forward(blob[..., a:b]) for a, b in ((0, 7), (7, 12))]
    torch.testing.assert_close(parts[0] + parts[1], found, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(other.forward(blob.float()), found.float(), rtol=1e-4, atol=1e-4)


def test_curved_detectors_are_left_to_rtk() -> None:
    pytest.importorskip("diffct")
    curved = {"views": 5, "detectors": [9, 8], "detector_radius": 100.0, "projector": "diffct"}
    with pytest.raises(ConfigError) as caught:
        registry.create("operators", "cone_beam_ct", geometry=GEOMETRY, **NEAR, **curved)
    assert caught.value.where == "operator#projector"
