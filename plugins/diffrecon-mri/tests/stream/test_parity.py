# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The same scan from a file and through a stream, and the images that come back."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
import torch
from ismrmrd.serialization import ConfigFile, ConfigText

from diffrecon_mri.ismrmrd.acquisitions import sorted_acquisitions
from diffrecon_mri.ismrmrd.reader import ISMRMRDReader
from diffrecon_mri.noncartesian.trajectories import radial
from diffrecon_mri.simulate import Receiver, write_ismrmrd
from diffrecon_mri.stream.reconstruction import CASE, StreamReconstruction
from diffrecon_mri.stream.scan import Scan
from diffrecon_mri.synthetic_maps import birdcage_maps
from monai_diffrecon import load
from monai_diffrecon.protocols import Measurement

from .clients import answer, as_volume, ask, ismrmrd_bytes, mrd_bytes, mrd_images, open_scan, scan_bytes
from .conftest import BUNDLE, SUBJECT, unit_images

MRD, ISMRMRD = "mrd", "ismrmrd"
PROTOCOLS = pytest.mark.parametrize("protocol", [ISMRMRD, MRD])


def as_bytes(path: Path, protocol: str) -> bytes:
    if protocol == ISMRMRD:
        return scan_bytes(path)
    pytest.importorskip("mrd")
    return mrd_bytes(path)


def assert_same(one: Measurement, other: Measurement) -> None:
    assert one.operator is not None
    assert other.operator is not None
    assert one.operator.keys() == other.operator.keys()
    pairs = [(one.data, other.data), *((one.operator[k], other.operator[k]) for k in one.operator)]
    for a, b in pairs:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    clear = {"data": None, "operator": None, "source_sha256": None, "weights": None}
    assert replace(one, **clear) == replace(other, **clear)


def received(serve: Callable[..., Any], data: bytes) -> Scan:
    """Return the scan as the server has it."""
    scans: list[Scan] = []

    def keep(scan: Scan) -> Any:
        scans.append(scan)
        return unit_images(scan)

    assert ask(serve(keep).address, data)
    (scan,) = scans
    return scan


@PROTOCOLS
@pytest.mark.parametrize("kind", ["2D", "3D", "radial"])
def test_a_stream_gives_the_measurement_of_the_file(
    tmp_path: Path, serve: Callable[..., Any], kind: str, protocol: str
) -> None:
    path, shape = tmp_path / "scan.h5", (24, 22, 4)
    volume = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(torch.complex64)
    options: dict[str, Any] = {"axes": "RAS", "receiver": Receiver(std=0.01, scans=4)}
    if kind == "radial":
        options |= {"trajectory": radial(shape[:2], 40, 48, golden=True), "shot": 48}
    write_ismrmrd(path, volume, birdcage_maps(3, shape), volumetric=kind == "3D", **options)
    scan = received(serve, as_bytes(path, protocol))
    reader = ISMRMRDReader(coil_maps="low_resolution")
    acquisitions = sorted_acquisitions(scan.header or "", scan.table(), reader.counters, "stream")
    assert_same(reader.measurement_of(acquisitions, source="", where="stream"), reader.read(path))


@pytest.fixture(scope="module")
def reconstruction() -> StreamReconstruction:
    return StreamReconstruction(str(BUNDLE), method="cg_least_squares", overrides={"device": "cpu", "seed": 3})


@pytest.fixture(scope="module")
def from_file(scan: Path) -> Any:
    """Return what the file gives."""
    return load(BUNDLE, task="raw_mri", method="cg_least_squares", device="cpu", seed=3).reconstruct(scan, case=CASE)


@pytest.mark.parametrize(
    ("protocol", "whole", "dtype"),
    [(ISMRMRD, False, "float32"), (ISMRMRD, True, "uint16"), (MRD, True, "float32"), (MRD, False, "uint16")],
)
def test_the_images_are_the_volume_of_the_file(
    serve: Callable[..., Any],
    scan: Path,
    reconstruction: StreamReconstruction,
    from_file: Any,
    protocol: str,
    whole: bool,
    dtype: str,
) -> None:
    reconstruction._whole, reconstruction._dtype = whole, dtype
    said = ask(serve(reconstruction.images).address, as_bytes(scan, protocol))
    images = answer(said)[1] if protocol == ISMRMRD else mrd_images(said)
    assert len(images) == (1 if whole else 3)
    array, affine = as_volume(images)
    assert array.dtype == dtype
    wanted = from_file.volume[0].abs().numpy()
    # The grid of the volume is that of the images up to the order of its axes: compare voxel by voxel in the world.
    index = np.stack(np.meshgrid(*map(np.arange, wanted.shape), indexing="ij"), -1).reshape(-1, 3)
    world = index @ from_file.affine[:3, :3].T + from_file.affine[:3, 3]
    there = (world - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    nearest = np.rint(there).astype(int)
    assert np.abs((there - nearest) @ affine[:3, :3].T).max() < 1e-3
    values = array[tuple(nearest.T)].reshape(wanted.shape)
    if dtype == "float32":
        np.testing.assert_array_equal(values, wanted)
    else:
        said_slope = images[0].meta["RescaleSlope"]
        slope = float(said_slope if protocol == ISMRMRD else said_slope[0].value)
        assert array.max() == 4095
        np.testing.assert_allclose(values * slope, wanted, atol=0.51 * slope)


def test_fields_of_images_and_notices(
    serve: Callable[..., Any],
    scan: Path,
    reconstruction: StreamReconstruction,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    caplog.set_level(logging.DEBUG)
    reconstruction._whole, reconstruction._dtype = False, "float32"
    header, acquisitions = open_scan(scan)
    for acquisition in acquisitions:
        acquisition.measurement_uid, acquisition.patient_table_position = 77, (0.0, 0.0, -5.0)
    said = ask(serve(reconstruction.images).address, ismrmrd_bytes(header, *acquisitions))
    texts, images = answer(said)
    imaging = next(a for a in acquisitions if not a.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT))
    assert [image.image_index for image in images] == [1, 2, 3]
    assert [image.slice for image in images] == [0, 1, 2]
    for image in images:
        assert (image.image_type, image.measurement_uid) == (ismrmrd.IMTYPE_MAGNITUDE, 77)
        assert tuple(image.patient_table_position) == (0.0, 0.0, -5.0)
        for name in ("read_dir", "phase_dir", "slice_dir"):
            np.testing.assert_allclose(getattr(image, name), getattr(imaging, name), atol=1e-6)
    # Images of the encoded grid lie where the scanner says its slices do.
    positions = {a.idx.slice: tuple(a.position) for a in acquisitions if a.read_dir[0]}
    np.testing.assert_allclose(sorted(tuple(i.position) for i in images), sorted(positions.values()), atol=1e-3)
    meta = images[0].meta
    assert meta["DataRole"] == "Image"
    assert "not for clinical use" in meta["ImageComments"]
    assert (meta["diffrecon_bundle"], meta["diffrecon_task"], meta["diffrecon_seed"]) == (BUNDLE.name, "raw_mri", "3")
    assert meta["diffrecon_method"] == "cg_least_squares"
    kept = meta.get("diffrecon_warnings", [])
    assert texts == ([kept] if isinstance(kept, str) else kept)
    assert SUBJECT.encode() not in said
    assert SUBJECT not in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (ConfigFile("diffrecon"), {}),
        (ConfigFile("openrecon\0left in memory"), {}),
        (ConfigFile("raw_mri"), {"task": "raw_mri"}),
        (
            ConfigText('{"task": "raw_mri", "steps": 4, "samples": 0, "method": "default"}'),
            {"task": "raw_mri", "steps": 4},
        ),
        (ConfigText(json.dumps({"version": "1.1.0", "parameters": {"config": "dds"}}) + "\0"), {"method": "dds"}),
    ],
)
def test_what_a_client_chooses(serve: Callable[..., Any], scan: Path, config: Any, wanted: dict[str, Any]) -> None:
    header, acquisitions = open_scan(scan)
    assert received(serve, ismrmrd_bytes(config, header, *acquisitions)).choices == wanted


def test_later_choices_come_from_a_text_after_the_header(serve: Callable[..., Any], scan: Path) -> None:
    """As OpenRecon sends what the user chose."""
    header, acquisitions = open_scan(scan)
    text = json.dumps({"parameters": {"steps": 5}})
    got = received(serve, ismrmrd_bytes(ConfigFile("dds"), header, text, *acquisitions, "a word to people"))
    assert got.choices == {"method": "dds", "steps": 5}


def test_choices_reach_the_reconstruction(scan: Path) -> None:
    header, acquisitions = open_scan(scan)
    made = StreamReconstruction(str(BUNDLE), overrides={"device": "cpu"})
    stream = Scan()
    stream.set_header(header.toXML())
    for a in acquisitions:
        head = np.frombuffer(bytes(a.getHead()), dtype=stream.table().dtype["head"])[0]
        stream.add(head, a.traj.ravel(), a.data.reshape(-1).view(np.float32))
    stream.choices = {"method": "cg_least_squares"}
    images, _ = made.images(stream)
    assert images[0].meta["diffrecon_method"] == "cg_least_squares"
    assert images[0].meta["diffrecon_sampler"] == "cg_least_squares"
