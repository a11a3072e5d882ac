# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes as MetaImage, NRRD and OME-Zarr: read by ITK and by zarr, and of an unknown orientation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.protocols import VolumeGeometry, VolumeOrigin

ORIGIN = VolumeOrigin("case1", header={"PatientName": "Doe"})


def volume(geometry: VolumeGeometry) -> torch.Tensor:
    return torch.rand((1, *geometry.shape), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["nrrd", "metaimage"])
def test_itk_reads_it(tmp_path: Path, images: Any, itk_read: Callable[..., Any], name: str) -> None:
    writer, geometry = registry.create("writers", name), images.oblique()
    x = volume(geometry)
    (path,) = writer.write(tmp_path / f"scan{writer.suffix}", x, geometry, ORIGIN)
    array, affine = itk_read(path)
    np.testing.assert_array_equal(array, x[0].numpy())
    np.testing.assert_allclose(affine, np.array(geometry.affine), atol=1e-6)
    assert b"Doe" not in path.read_bytes()


@pytest.mark.parametrize("name", ["nrrd", "metaimage"])
def test_an_unknown_orientation_stays_unknown(tmp_path: Path, images: Any, name: str) -> None:
    writer, geometry = registry.create("writers", name), replace(images.oblique(), affine=None)
    x = volume(geometry)
    (path,) = writer.write(tmp_path / f"scan{writer.suffix}", x, geometry, ORIGIN)
    found, measured = read_scan(path)
    assert found == name
    assert measured.geometry == geometry
    assert torch.equal(measured.data, x)


def zarr_levels(tmp_path: Path, geometry: VolumeGeometry, x: torch.Tensor) -> tuple[dict[str, Any], list[np.ndarray]]:
    zarr = pytest.importorskip("zarr")
    files = registry.create("writers", "ome_zarr").write(tmp_path / "ome_zarr", x, geometry, ORIGIN)
    group = zarr.open_group(tmp_path / "ome_zarr" / "case1.ome.zarr", mode="r")
    assert not any(b"Doe" in file.read_bytes() for file in files)
    (image,) = group.attrs["multiscales"]
    return dict(group.attrs), [group[level["path"]][:] for level in image["datasets"]]


def test_levels_of_ome_zarr(tmp_path: Path, images: Any) -> None:
    """A voxel of a coarser level is the mean of those whose middle it has."""
    geometry = images.oblique((600, 2, 1))
    at = torch.arange(600.0)[:, None, None] * 0.7 + geometry.affine[0][3]
    attributes, levels = zarr_levels(tmp_path, geometry, at.expand(1, *geometry.shape).contiguous())
    assert [level.shape for level in levels] == [(1, 2, 600), (1, 1, 300), (1, 1, 150), (1, 1, 75)]
    (image,) = attributes["multiscales"]
    assert [axis["name"] for axis in image["axes"]] == ["z", "y", "x"]
    for number, (stated, level) in enumerate(zip(image["datasets"], levels, strict=True)):
        scale, shift = (t[t["type"]] for t in stated["coordinateTransformations"])
        halved = min(number, 1)
        assert scale == pytest.approx([3.0, 0.8 * (1 + halved), 0.7 * 2**number])
        assert shift[:2] == pytest.approx([geometry.affine[2][3], geometry.affine[1][3] + 0.4 * halved])
        np.testing.assert_allclose(level[0, 0], np.arange(level.shape[2]) * scale[2] + shift[2], atol=1e-3)
    np.testing.assert_array_equal(attributes["monai_diffrecon"]["affine"], geometry.affine)


def test_ome_zarr_as_others_read_it(tmp_path: Path, images: Any) -> None:
    reader = pytest.importorskip("ome_zarr.reader")
    io = pytest.importorskip("ome_zarr.io")
    geometry = images.oblique()
    x = volume(geometry)
    zarr_levels(tmp_path, geometry, x)
    (node,) = reader.Reader(io.parse_url(tmp_path / "ome_zarr" / "case1.ome.zarr"))()
    np.testing.assert_array_equal(np.asarray(node.data[0]), x[0].permute(2, 1, 0).numpy())


def test_ome_zarr_of_an_unknown_orientation(tmp_path: Path, images: Any) -> None:
    geometry = replace(images.oblique(), affine=None)
    attributes, _ = zarr_levels(tmp_path, geometry, volume(geometry))
    assert attributes["monai_diffrecon"]["affine"] is None
    assert json.dumps(attributes["multiscales"]).count("-333.3") == 0


def test_ome_zarr_needs_zarr(tmp_path: Path, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is said before anything is computed."""
    monkeypatch.setattr("monai_diffrecon.io.images.ome_zarr_writer.find_spec", lambda _: None)
    with pytest.raises(ConfigError):
        registry.create("writers", "ome_zarr").check(images.oblique(), "scan")
