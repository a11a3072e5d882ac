# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import tifffile
import torch

from monai_diffrecon.engine.problem.measured_operator import build_operator
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError
from monai_diffrecon.io.measurement.checks import check_measurement
from monai_diffrecon.io.projections.reader import ProjectionsReader
from monai_diffrecon.numerics.ct.rings import without_rings
from monai_diffrecon.testing.reader_laws import check_reader

from ..dxchange.dxchange_files import PIXEL, line_integrals, phantom

CENTER, COLUMNS = 45.3, 96
HALF = np.arange(0.0, 180.0, 1.5)
LINES = line_integrals(HALF, CENTER, COLUMNS)
DARK = 100.0 + 7.0 * (np.arange(3 * COLUMNS).reshape(3, COLUMNS) % 5)
BEAM = 20000.0 + 9000.0 * np.cos(np.arange(COLUMNS) / 9.0) * np.ones((3, 1))
COUNTS = np.round(DARK + BEAM * np.exp(-LINES)).astype(np.uint16)
WHITE, DARKS = (np.round(f).astype(np.uint16)[None].repeat(2, axis=0) for f in (DARK + BEAM, DARK))
MATLAB = [2, 1, 0]  # as MATLAB users keep them: columns, rows, views


def tiffs(folder: Path) -> dict[str, Any]:
    for i, image in enumerate(COUNTS):
        tifffile.imwrite(folder / f"p_{i}.tif", image, compression="zlib" if i % 2 else None)
    tifffile.imwrite(folder / "white.tif", WHITE)
    tifffile.imwrite(folder / "dark.tif", DARKS[0])
    return {"projections": "p_*.tif", "white": "white.tif", "dark": "dark.tif"}


def one_tiff(folder: Path) -> dict[str, Any]:
    tifffile.imwrite(folder / "all.tiff", COUNTS)
    return tiffs(folder) | {"projections": "all.tiff"}


def sinogram_tiffs(folder: Path) -> dict[str, Any]:
    for name, array in (("s", COUNTS), ("w", WHITE), ("d", DARKS)):
        for row in range(3):
            tifffile.imwrite(folder / f"{name}{row}.tif", array[:, row])
    axes = ["rows", "views", "columns"]
    return {"projections": "s?.tif", "white": "w?.tif", "dark": "d?.tif", "axes": axes}


def npz(folder: Path) -> dict[str, Any]:
    np.savez_compressed(folder / "scan.npz", data=COUNTS, white=WHITE, dark=DARKS)
    return {"projections": "scan.npz#data", "white": "scan.npz#white", "dark": "scan.npz#dark"}


def npy(folder: Path) -> dict[str, Any]:
    (folder / "arrays").mkdir()
    for name, array in (("data", COUNTS), ("white", WHITE[0]), ("dark", DARKS[0])):
        np.save(folder / "arrays" / f"{name}.npy", array)
    return {
        name: f"arrays/{'data' if name == 'projections' else name}.npy" for name in ("projections", "white", "dark")
    }


def mat(folder: Path) -> dict[str, Any]:
    arrays = {"p": COUNTS.transpose(MATLAB), "w": WHITE.transpose(MATLAB), "d": DARKS.transpose(MATLAB)[..., 0]}
    scipy.io.savemat(folder / "scan.mat", arrays, do_compression=True)
    axes = ["columns", "rows", "views"]
    return {"projections": "scan.mat#p", "white": "scan.mat#w", "dark": "scan.mat#d", "axes": axes}


def mat73(folder: Path) -> dict[str, Any]:
    """Version 7.3: HDF5 behind 512 bytes of MATLAB's own, which shows axes in reverse."""
    with h5py.File(folder / "scan.mat", "w", userblock_size=512) as file:
        for name, array in (("p", COUNTS), ("w", WHITE), ("d", DARKS)):
            file.create_dataset(name, data=array, compression="gzip")
        file.create_group("#refs#")
    with (folder / "scan.mat").open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")
    return mat_names()


def mat_names() -> dict[str, Any]:
    axes = ["columns", "rows", "views"]
    return {"projections": "scan.mat#p", "white": "scan.mat#w", "dark": "scan.mat#d", "axes": axes}


def hdf5(folder: Path) -> dict[str, Any]:
    with h5py.File(folder / "scan.h5", "w") as file:
        file["entry/p"], file["entry/w"], file["entry/d"] = COUNTS, WHITE, DARKS
    return {"projections": "scan.h5#entry/p", "white": "scan.h5#entry/w", "dark": "scan.h5#entry/d"}


WRITERS = (tiffs, one_tiff, sinogram_tiffs, npz, npy, mat, mat73, hdf5)
RANGE = {"first": 0.0, "last": 178.5}


def write(folder: Path, write_arrays: Callable[[Path], dict[str, Any]] = npz, **changes: Any) -> Path:
    """Write a scan; a change to None takes a key out."""
    said = {**write_arrays(folder), "angles": RANGE, "pixel_size": PIXEL, "center": CENTER, **changes}
    text = json.dumps({key: value for key, value in said.items() if value is not None})
    (folder / "scan.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("write_arrays", WRITERS, ids=lambda f: f.__name__)
def test_every_format_holds_the_same_line_integrals(
    tmp_path: Path, write_arrays: Callable[[Path], dict[str, Any]]
) -> None:
    folder = write(tmp_path, write_arrays)
    reader = ProjectionsReader()
    assert reader.recognises(folder)
    assert reader.recognises(folder / "scan.json")
    m = reader.read(folder)
    check_measurement(m, "scan")
    np.testing.assert_allclose(m.data.numpy(), LINES.transpose(0, 2, 1), atol=2e-3)  # counts are whole numbers
    assert (m.geometry.shape, m.geometry.spacing, m.unit) == ((96, 96, 3), (PIXEL,) * 3, "1/mm")
    assert m.operator is not None
    assert m.operator["name"] == "parallel_ct"
    np.testing.assert_allclose(m.operator["angles"], HALF)
    assert m.operator["detector_offset"] == pytest.approx((47.5 - CENTER) * PIXEL)
    part = ProjectionsReader(rows=[1, 2], views=40).read(folder / "scan.json")
    torch.testing.assert_close(part.data, m.data[::3, :, 1:2], rtol=0, atol=0)


@pytest.mark.parametrize("unit", [None, "radians"])
def test_angles_in_every_form(tmp_path: Path, unit: str | None) -> None:
    values = HALF if unit is None else np.deg2rad(HALF)
    np.savetxt(tmp_path / "angles.txt", values, header="angle of each view")
    (tmp_path / "angles.csv").write_text(", ".join(map(str, values)), encoding="utf-8")
    np.save(tmp_path / "angles.npy", values[:, None])
    forms = ("angles.txt", "angles.csv", "angles.npy", values.tolist(), {"first": values[0], "last": values[-1]})
    for angles in forms:
        m = ProjectionsReader().read(write(tmp_path, angles=angles, angles_unit=unit))
        assert m.operator is not None
        np.testing.assert_allclose(m.operator["angles"], HALF, atol=1e-6)


def test_the_axis_is_found(tmp_path: Path) -> None:
    m = ProjectionsReader().read(write(tmp_path, tiffs, center=None))
    assert m.operator is not None
    assert m.operator["detector_offset"] == pytest.approx((47.5 - CENTER) * PIXEL, abs=0.2 * PIXEL)
    assert any("axis of rotation was found" in notice for notice in m.notices)


def test_line_integrals_of_one_row_and_options_that_win(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", LINES[:, 0].T)
    said = {"projections": "s.npy", "values": "line_integrals", "axes": ["columns", "views"]}
    m = ProjectionsReader(pixel_size=0.5, center=40.0).read(write(tmp_path, lambda _: said))
    np.testing.assert_allclose(m.data[..., 0].numpy(), LINES[:, 0], rtol=1e-5)
    assert m.geometry.spacing == (0.5, 0.5, 0.5)
    assert m.operator is not None
    assert m.operator["detector_offset"] == pytest.approx((47.5 - 40.0) * 0.5)


def test_numbers_as_fields(tmp_path: Path) -> None:
    m = ProjectionsReader().read(write(tmp_path, white=40000, dark=None))
    np.testing.assert_allclose(m.data.numpy(), -np.log(COUNTS / 40000.0).transpose(0, 2, 1), rtol=1e-4, atol=1e-5)
    assert any("0 is assumed" in notice for notice in m.notices)


@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_a_fan_beam_shows_the_object_where_it_is(tmp_path: Path, detector: str) -> None:
    """A source in the distance of ten object widths; the axis is beside the middle of the detector."""
    truth, flat = phantom(COLUMNS)
    source, far = 10 * COLUMNS * PIXEL, 15 * COLUMNS * PIXEL
    pixel, columns, center = 1.5 * PIXEL, 110, 53.0
    at, degrees = (np.arange(columns) - center) * pixel, np.arange(0.0, 360.0, 2.0)
    gamma = at / far if detector == "curved" else np.arctan(at / far)
    # The ray at the angle g of the fan is the parallel one that is turned by g, at the distance R sin(g) of the axis.
    place = source * np.sin(gamma) / PIXEL
    sinogram = np.stack([ray_sums(b + np.rad2deg(gamma), place) for b in degrees])
    np.save(tmp_path / "s.npy", sinogram)
    said = {"projections": "s.npy", "values": "line_integrals", "geometry": "fan", "detector": detector}
    distances = {"source_distance": source, "detector_distance": far, "pixel_size": pixel, "center": center}
    m = ProjectionsReader().read(write(tmp_path, lambda _: said, angles={"first": 0, "last": 358}, **distances))
    assert m.operator is not None
    assert m.geometry.spacing == pytest.approx((PIXEL,) * 3)
    volume = build_operator(m.operator, m.geometry).initial(m.data)[0, 7:-7, 7:-7, 0].numpy()
    error = (volume - truth[..., 0])[flat]
    assert np.sqrt(np.square(error).mean()) < 0.03 * truth.max()


def ray_sums(degrees: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return line integrals of the first row, each ray with its angle and distance from the axis (pixels)."""
    each = [line_integrals(np.array([d]), -p, 1)[0, 0, 0] for d, p in zip(degrees, place, strict=True)]
    return np.asarray(each)


def test_rings_go_and_the_object_stays(tmp_path: Path) -> None:
    gains = np.ones((3, COLUMNS))
    gains[:, 20::11] = 1.05
    uneven = np.round(DARK + gains * BEAM * np.exp(-LINES)).astype(np.uint16)
    np.savez(tmp_path / "uneven.npz", data=uneven)
    folder = write(tmp_path, projections="uneven.npz", rings=True)
    kept, taken = (ProjectionsReader(rings=rings).read(folder) for rings in (False, None))
    truth = LINES.transpose(0, 2, 1)
    before, after = (float(np.abs(m.data.numpy() - truth)[:, 20::11].mean()) for m in (kept, taken))
    assert before == pytest.approx(np.log(1.05), rel=0.02)
    assert after < 0.3 * before
    smooth = np.ones((5, 30, 2), dtype=np.float32) * np.linspace(0.0, 1.0, 30, dtype=np.float32)[None, :, None]
    np.testing.assert_allclose(without_rings(smooth)[:, 4:-4], smooth[:, 4:-4], atol=1e-6)


def cut(name: str, part: float = 0.6) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(part * len(content))])

    return change


def hollow(folder: Path) -> None:
    """Declare far more than there is."""
    with (folder / "data.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f8", "fortran_order": False, "shape": (9000, 9000, 9000)}
        )


def objects(folder: Path) -> None:
    np.savez(folder / "objects.npz", data=np.array([{}, None]))


@pytest.mark.parametrize(
    ("write_arrays", "change", "changes", "where"),
    [
        (npz, None, {"projections": "../scan.npz#data"}, "scan.json#projections"),
        (npz, None, {"projections": "/etc/passwd"}, "scan.json#projections"),
        (npz, None, {"projections": "missing.npz"}, "scan.json#projections"),
        (npz, None, {"projections": "scan.npz"}, "scan.npz"),
        (npz, None, {"projections": "scan.npz#none"}, "scan.npz"),
        (npz, None, {"projections": "scan.json"}, "scan.json"),
        (npz, None, {"projections": 3}, "scan.json#projections"),
        (npz, cut("scan.npz"), {}, "scan.npz"),
        (npz, hollow, {"projections": "data.npy"}, "data.npy"),
        (npz, objects, {"projections": "objects.npz"}, "objects.npz"),
        (tiffs, cut("p_3.tif"), {}, "p_3.tif"),
        (tiffs, None, {"projections": "*.tif"}, "white.tif"),
        (mat, cut("scan.mat"), {}, "scan.mat"),
        (mat73, cut("scan.mat"), {}, "scan.mat"),
        (mat, None, {"projections": "scan.mat#q"}, "scan.mat"),
        (hdf5, None, {"projections": "scan.h5#entry"}, "scan.h5#entry"),
        (npz, None, {"axes": ["rows", "columns"]}, "scan.json#axes"),
        (npz, None, {"axes": ["views", "columns"]}, "scan.json#projections"),
        (npz, None, {"white": None}, "scan.json"),
        (npz, None, {"white": "scan.npz#data", "axes": ["columns", "rows", "views"]}, "scan.json#dark"),
        (npz, None, {"dark": "scan.npz#white"}, "scan.json#white"),
        (npz, None, {"angles": [0, 1, 2]}, "scan.json#angles"),
        (npz, None, {"angles": {"first": 0.0, "last": 3.1}}, "scan.json#angles"),
        (npz, None, {"geometry": "fan"}, "scan.json"),
        (npz, None, {"geometry": "cone"}, "scan.json#geometry"),
        (npz, None, {"pixel_size": 0}, "scan.json#pixel_size"),
        (npz, None, {"angles": None}, "scan.json#angles"),
        (npz, None, {"angles": [0, True]}, "scan.json#angles"),
        (npz, None, {"center": 99.0}, "scan.json#center"),
        (npz, None, {"centre": 40}, "scan.json#centre"),
    ],
)
def test_what_is_no_scan_is_one_line(
    tmp_path: Path,
    write_arrays: Callable[[Path], dict[str, Any]],
    change: Callable[[Path], None] | None,
    changes: dict[str, Any],
    where: str,
) -> None:
    folder = write(tmp_path, write_arrays, **changes)
    if change is not None:
        change(folder)
    with pytest.raises(DiffReconError) as caught:
        ProjectionsReader().read(folder)
    assert isinstance(caught.value, InputError | ConfigError)
    assert caught.value.where == where
    said = str(caught.value)
    assert "\n" not in said
    assert str(tmp_path) not in said


def test_links_do_not_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "secret.npy", COUNTS)
    (tmp_path / "in" / "data.npy").symlink_to(tmp_path / "secret.npy")
    with pytest.raises(InputError) as caught:
        ProjectionsReader().read(write(tmp_path / "in", projections="data.npy"))
    assert caught.value.where == "scan.json#projections"


def test_other_json_is_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "sidecar.json").write_text('{"Modality": "CT"}', encoding="utf-8")
    (tmp_path / "twice.json").write_text('{"projections": 1, "projections": 2}', encoding="utf-8")
    assert not any(ProjectionsReader().recognises(tmp_path / name) for name in ("sidecar.json", "twice.json", ""))


def test_it_obeys_the_laws_of_readers(tmp_path: Path) -> None:
    (tmp_path / "laws").mkdir()
    (tmp_path / "scan").mkdir()
    check_reader(ProjectionsReader(), tmp_path / "laws", write(tmp_path / "scan"))
