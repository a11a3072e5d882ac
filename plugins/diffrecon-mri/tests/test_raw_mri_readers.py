# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Readers of ISMRMRD and fastMRI files: round trips, orientation, noise, refusals, and no name of a subject."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
import pytest
import torch
from torch import Tensor

from diffrecon_mri.ismrmrd.reader import SIEMENS, SIEMENS_TRAJECTORY, ISMRMRDReader
from diffrecon_mri.noncartesian.trajectories import radial
from diffrecon_mri.simulate import Receiver, write_fastmri, write_ismrmrd
from diffrecon_mri.synthetic_maps import birdcage_maps, smooth_phase
from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.protocols import Measurement

SHAPE = (26, 24, 16)
SUBJECT = "DOE^JANE"


def head(shape: tuple[int, int, int]) -> Tensor:
    """An ellipsoid without any symmetry, of varying phase."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in shape), indexing="ij")
    inside = torch.sigmoid(20 * (1 - torch.hypot((x - 0.1) / 0.7, (y + 0.1) / 0.8)))
    return inside * (1 + 0.4 * torch.sin(5 * x + 3 * y + 2 * z)) * smooth_phase(shape, 2, 0.4)


def oblique() -> np.ndarray:
    a, b = 0.2, 0.3
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * np.array([1.1, 1.2, 3.0])
    affine[:3, 3] = [-20.0, 13.0, 47.0]
    return affine


VOLUME, MAPS, AFFINE = head(SHAPE), birdcage_maps(4, SHAPE), oblique()
LINES = torch.zeros(24, dtype=torch.bool)
LINES[::3] = True
LINES[6:18] = True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in a folder named as no message may name it."""
    folder = tmp_path / SUBJECT
    folder.mkdir()
    return folder / "scan.h5"


def read(path: Path, kind: str = "ismrmrd", **options: Any) -> Measurement:
    reader = registry.create("readers", f"diffrecon-mri:{kind}", **options)
    assert reader.recognises(path)
    return reader.read(path)


def predicted(m: Measurement, volume: Tensor, coil_maps: Tensor | None) -> Tensor:
    """What the measurement's operator says, with the true coil maps."""
    assert m.operator is not None
    spec = {**m.operator, "coil_maps": coil_maps}
    return registry.build("operators", spec, geometry=m.geometry)(volume[None])


def image_of(m: Measurement) -> Tensor:
    assert m.operator is not None
    return registry.build("operators", m.operator, geometry=m.geometry).adjoint(m.data)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def check_round_trip(m: Measurement, tolerance: float = 1e-5) -> None:
    assert m.operator is not None
    assert m.geometry.shape == SHAPE
    assert relative(m.data, predicted(m, VOLUME, MAPS)) < tolerance
    np.testing.assert_allclose(np.asarray(m.geometry.affine), AFFINE, rtol=0, atol=1e-3)
    np.testing.assert_allclose(m.geometry.spacing, (1.1, 1.2, 3.0), rtol=1e-5)
    found = m.operator["coil_maps"]
    inside = VOLUME.abs() > 0.5
    assert float((found.conj() * MAPS).sum(0).abs()[inside].min()) > 0.98
    assert len(m.source_sha256 or "") == 64
    # Without the true maps: the image that the reader's own maps explain is the volume up to the maps' phase.
    image = (found.conj() * MAPS).sum(0) * VOLUME
    assert relative(predicted(m, image, found), m.data) < 0.05


@pytest.mark.parametrize(
    ("axes", "volumetric", "operator", "readout"),
    [
        ("RAS", False, "cartesian_mri", None),
        ("LPI", False, "cartesian_mri", None),
        ("ALS", False, "cartesian_mri", None),
        ("SAL", False, "cartesian_mri_3d", "sagittal"),
        ("LIA", False, "cartesian_mri_3d", "coronal"),
        ("RAS", True, "cartesian_mri_3d", "sagittal"),
        ("ILP", True, "cartesian_mri_3d", "axial"),
    ],
)
def test_cartesian_round_trip_in_any_orientation(
    path: Path, axes: str, volumetric: bool, operator: str, readout: str | None
) -> None:
    write_ismrmrd(path, VOLUME, MAPS, affine=AFFINE, axes=axes, volumetric=volumetric, subject=SUBJECT)
    m = read(path)
    assert m.operator is not None
    assert (m.operator["name"], m.operator.get("readout")) == (operator, readout)
    assert bool(m.operator["mask"].all())
    check_round_trip(m)


@pytest.mark.parametrize(("axes", "across"), [("RAS", (26, 24)), ("PRS", (26, 24)), ("LSP", (26, 16))])
def test_undersampled_round_trip(path: Path, axes: str, across: tuple[int, int]) -> None:
    lines = LINES if axes == "RAS" else torch.arange(26) % 3 == 1
    lines = lines if axes != "LSP" else torch.arange(16) % 5 != 0
    lines[len(lines) // 2 - 6 : len(lines) // 2 + 6] = True
    write_ismrmrd(path, VOLUME, MAPS, affine=AFFINE, axes=axes, mask=lines, acceleration=2)
    m = read(path)
    check_round_trip(m)
    assert m.operator is not None
    assert m.operator["mask"].shape == across
    assert float(m.operator["mask"].float().mean()) == pytest.approx(float(lines.float().mean()))


@pytest.mark.parametrize("axes", ["RAS", "PRI", "LAS"])
def test_radial_round_trip(path: Path, axes: str) -> None:
    size = (26, 24) if axes[0] in "RL" else (24, 26)
    k = radial(size, 50, 52, golden=True)
    write_ismrmrd(path, VOLUME, MAPS, affine=AFFINE, axes=axes, trajectory=k, shot=52, subject=SUBJECT)
    m = read(path)
    assert m.operator is not None
    assert m.operator["name"] == "noncartesian_mri"
    assert m.data.shape == (4, 50 * 52, 16)
    check_round_trip(m)


@pytest.mark.slow
def test_trajectory_units_and_samples_beyond_the_voxels(path: Path) -> None:
    k = radial((26, 24), 50, 52, golden=False)
    write_ismrmrd(path, VOLUME, MAPS, affine=AFFINE, trajectory=k, shot=52)
    per_voxel = read(path)
    edit(path, traj=lambda t, _: (t.reshape(-1, 2) * [26, 24]).reshape(-1))
    for unit in ("auto", "cycles_per_fov"):
        m = read(path, trajectory_unit=unit)
        assert m.operator is not None
        assert per_voxel.operator is not None
        torch.testing.assert_close(m.operator["trajectory"], per_voxel.operator["trajectory"])
    edit(path, traj=lambda t, _: t * 1.3)
    m = read(path, trajectory_unit="cycles_per_fov")
    assert m.data.shape[1] == m.operator["trajectory"].shape[0] < 50 * 52  # type: ignore[index]


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("store_mask", [True, False])
@pytest.mark.parametrize("axes", ["RAS", "PRS"])
def test_fastmri_round_trip(path: Path, axes: str, store_mask: bool, header: bool) -> None:
    over = 2.0 if header else 1.0
    lines = LINES if axes == "RAS" else torch.cat([LINES, torch.tensor([True, False])]).roll(1)
    options: dict[str, Any] = {"spacing": (1.1, 1.2, 3.0), "header": header, "store_mask": store_mask}
    write_fastmri(path, VOLUME, MAPS, axes=axes, mask=lines, oversampling=over, subject=SUBJECT, **options)
    m = read(path, "fastmri", axes=axes)
    assert m.operator is not None
    assert m.operator["name"] == "cartesian_mri"
    assert relative(m.data, predicted(m, VOLUME, MAPS)) < 1e-5
    spacing = (1.1, 1.2, 3.0) if header else (1, 1, 1)
    np.testing.assert_allclose(m.geometry.spacing, spacing, rtol=1e-5)
    # How it lies is what axes says; where is not known, so its middle is put to the origin.
    middle = np.asarray(m.geometry.affine) @ [*(n // 2 for n in SHAPE), 1]
    np.testing.assert_allclose(np.asarray(m.geometry.affine)[:3, :3], np.diag(spacing), rtol=1e-5)
    assert float(np.abs(middle[:3]).max()) <= max(spacing)
    inside = VOLUME.abs() > 0.5
    assert float((m.operator["coil_maps"].conj() * MAPS).sum(0).abs()[inside].min()) > 0.98


def test_single_coil_needs_no_calibration(path: Path) -> None:
    lines = torch.arange(24) % 2 == 0
    write_fastmri(path, VOLUME, mask=lines, receiver=Receiver(std=0.05))
    m = read(path, "fastmri")
    assert m.operator is not None
    assert m.operator["coil_maps"] is None
    assert m.data.shape == (1, *SHAPE)
    assert m.noise_std == pytest.approx(0.05, rel=0.35)
    assert read(path, "fastmri", noise_std=0.125).noise_std == 0.125
    residual = (m.data - predicted(m, VOLUME, None))[m.data != 0]
    assert float(torch.view_as_real(residual).std()) == pytest.approx(0.05, rel=0.03)


def test_noise_scans_make_the_noise_white_and_known(path: Path) -> None:
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.complex128) + 2 * torch.eye(4)
    receiver = Receiver(covariance=0.01 * mix @ mix.mH, scans=80)
    write_ismrmrd(path, torch.zeros(SHAPE), MAPS, receiver=receiver)
    m = read(path, coil_maps="low_resolution")
    assert m.noise_std == 1.0
    samples = m.data.flatten(1)
    covariance = (samples @ samples.mH / samples.shape[1]).numpy()
    np.testing.assert_allclose(covariance, 2 * np.eye(4), atol=0.12)
    # Noise scanned with half the bandwidth has half the variance.
    edit(path, where=lambda h: flagged(h, ismrmrd.ACQ_IS_NOISE_MEASUREMENT), sample_time_us=lambda t: 2 * t)
    slow = read(path, coil_maps="low_resolution")
    torch.testing.assert_close(slow.data * math.sqrt(2), m.data, rtol=1e-4, atol=1e-4)


def test_noise_within_what_the_measurement_says(path: Path) -> None:
    write_ismrmrd(path, VOLUME, affine=AFFINE, receiver=Receiver(std=0.05, scans=100))
    m = read(path)
    residual = torch.view_as_real(m.data - predicted(m, VOLUME, None) / 0.05)
    assert float(residual.std()) == pytest.approx(m.noise_std, rel=0.03)


def test_averages(path: Path) -> None:
    write_ismrmrd(path, VOLUME, affine=AFFINE, receiver=Receiver(std=0.05, scans=100))
    once = read(path)

    def twice(table: np.ndarray, lines: range) -> np.ndarray:
        noise = flagged(table["head"], ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        again = table[~noise & np.isin(table["head"]["idx"]["kspace_encode_step_1"], lines)].copy()
        again["head"]["idx"]["average"] = 1
        return np.concatenate([table, again])

    rewrite(path, lambda table: twice(table, range(8, 16)))
    m = read(path)
    assert m.noise_std == pytest.approx(1 / math.sqrt(2))
    assert m.weights is not None
    expected = torch.full((24,), 0.5)
    expected[8:16] = 1.0
    torch.testing.assert_close(m.weights, expected[None, None, :, None].expand(1, *SHAPE))
    torch.testing.assert_close(m.data, once.data)


@pytest.mark.parametrize("volumetric", [False, True])
def test_an_asymmetric_echo_is_not_taken_for_zeros(path: Path, volumetric: bool) -> None:
    write_ismrmrd(path, VOLUME, MAPS, affine=AFFINE, volumetric=volumetric)

    def cut(table: np.ndarray) -> np.ndarray:
        for row in table:
            samples = np.asarray(row["data"]).view(np.complex64).reshape(4, 52)[:, 12:]
            row["data"] = np.ascontiguousarray(samples).view(np.float32).reshape(-1)
        table["head"]["number_of_samples"] = 40
        table["head"]["center_sample"] = 26 - 12
        return table

    rewrite(path, cut)
    m = read(path)
    assert m.operator is not None
    assert m.operator["encoded"] == [52, 24, 16]
    expected = (torch.arange(52) >= 12)[:, None].expand(52, 24)
    assert torch.equal(m.operator["mask"], expected[:, :, None].expand(52, 24, 16) if volumetric else expected)
    check_round_trip(m)


def test_readouts_whose_oversampling_was_removed_are_not_taken_for_truncated_ones(path: Path) -> None:
    write_ismrmrd(path, VOLUME, MAPS, affine=AFFINE)

    def halved(table: np.ndarray) -> np.ndarray:
        for row in table:
            samples = np.asarray(row["data"]).view(np.complex64).reshape(4, 52)
            image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(samples, axes=1), axis=1), axes=1)[:, 13:39]
            samples = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(image, axes=1), axis=1), axes=1)
            row["data"] = np.ascontiguousarray(samples.astype(np.complex64)).view(np.float32).reshape(-1)
        table["head"]["number_of_samples"], table["head"]["center_sample"] = 26, 13
        return table

    rewrite(path, halved)
    with pytest.raises(InputError) as caught:
        read(path)
    assert (caught.value.expected, caught.value.got) == ("52 samples, as in encodedSpace", 26)


@pytest.mark.parametrize("embedded", [False, True])
def test_calibration_lines(path: Path, embedded: bool) -> None:
    write_ismrmrd(path, VOLUME, MAPS, affine=AFFINE, acceleration=2)

    def split(table: np.ndarray) -> np.ndarray:
        line = table["head"]["idx"]["kspace_encode_step_1"]
        calibration = (line >= 4) & (line < 20)
        kinds = (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
        for odd, kind in enumerate(kinds):
            table["head"]["flags"][calibration & (line % 2 == odd)] |= np.uint64(1 << (kind - 1))
        return table[calibration | (line % 2 == 0)]

    rewrite(path, split)
    if embedded:
        edit_xml(path, "</accelerationFactor>", "</accelerationFactor><calibrationMode>embedded</calibrationMode>")
    m = read(path)
    check_round_trip(m)
    assert m.operator is not None
    lines = torch.arange(24)
    inside = (lines >= 4) & (lines < 20) if embedded else torch.zeros(24, dtype=torch.bool)
    assert torch.equal(m.operator["mask"][0], (lines % 2 == 0) | inside)


def test_other_images_of_the_file_and_other_acquisitions(path: Path) -> None:
    write_ismrmrd(path, VOLUME, MAPS, affine=AFFINE)

    def more(table: np.ndarray) -> np.ndarray:
        second, navigator = table.copy(), table[:3].copy()
        second["head"]["idx"]["repetition"] = 1
        for row in second:
            row["data"] = 2 * np.asarray(row["data"])
        navigator["head"]["flags"] |= np.uint64(1 << (ismrmrd.ACQ_IS_NAVIGATION_DATA - 1))
        return np.concatenate([navigator, table, second])

    rewrite(path, more)
    torch.testing.assert_close(2 * read(path).data, read(path, repetition=1).data)
    with pytest.raises(InputError) as caught:
        read(path, repetition=2)
    assert (caught.value.where, caught.value.expected) == ("scan.h5", "contrast 0, phase 0, repetition 2, set 0")


def test_without_directions_the_place_is_unknown(path: Path) -> None:
    write_ismrmrd(path, VOLUME, affine=np.diag([1.1, 1.2, 3.0, 1.0]))
    edit(path, read_dir=lambda d: 0 * d, phase_dir=lambda d: 0 * d, slice_dir=lambda d: 0 * d)
    m = read(path)
    assert m.geometry.affine is None
    np.testing.assert_allclose(m.geometry.spacing, (1.1, 1.2, 3.0), rtol=1e-5)
    assert relative(m.data, predicted(m, VOLUME, None)) < 1e-5


def test_positions_and_directions_are_those_of_the_patient_system(path: Path) -> None:
    """Left, posterior, superior: by hand, since writer and reader share the conversion."""
    affine = np.diag([1.1, 1.2, 3.0, 1.0])
    affine[:3, 3] = [10.0, 20.0, 30.0]
    write_ismrmrd(path, VOLUME, affine=affine)
    with h5py.File(path) as file:
        head_of_first = file["dataset/data"][0]["head"]
    np.testing.assert_allclose(head_of_first["read_dir"], [-1, 0, 0])
    np.testing.assert_allclose(head_of_first["phase_dir"], [0, -1, 0])
    np.testing.assert_allclose(head_of_first["slice_dir"], [0, 0, 1])
    np.testing.assert_allclose(head_of_first["position"], [-(10 + 13 * 1.1), -(20 + 12 * 1.2), 30], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(read(path).geometry.affine), affine, atol=1e-3)


@pytest.mark.parametrize("kind", ["ismrmrd", "radial", "fastmri"])
def test_no_name_of_the_subject_leaves_the_reader(path: Path, kind: str) -> None:
    if kind == "fastmri":
        write_fastmri(path, VOLUME, MAPS, subject=SUBJECT)
    else:
        k = radial((26, 24), 50, 52, golden=True) if kind == "radial" else None
        write_ismrmrd(path, VOLUME, MAPS, trajectory=k, shot=52, subject=SUBJECT)
    assert SUBJECT.encode() in path.read_bytes()
    m = read(path, "fastmri" if kind == "fastmri" else "ismrmrd")
    buffer = io.BytesIO()
    torch.save(vars(m) | {"geometry": repr(m.geometry)}, buffer)
    assert SUBJECT.encode() not in buffer.getvalue()
    said = repr(replace(m, data=torch.zeros(0)))
    assert not any(text in said for text in ("DOE", "JANE"))


# Refusals


def flagged(heads: np.ndarray, flag: int) -> np.ndarray:
    return (heads["flags"] >> np.uint64(flag - 1)) & np.uint64(1) != 0


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with h5py.File(path, "r+") as file:
        table = change(file["dataset/data"][:])
        del file["dataset/data"]
        file["dataset"].create_dataset("data", data=table, maxshape=(None,), chunks=True)


def edit(path: Path, *, where: Callable[[np.ndarray], np.ndarray] | None = None, **changes: Any) -> None:
    """Change fields of the headers that ``where`` chooses; ``data`` and ``traj`` take (array, index)."""

    def change(table: np.ndarray) -> np.ndarray:
        chosen = np.ones(len(table), bool) if where is None else where(table["head"])
        for name, new in changes.items():
            if name in ("data", "traj"):
                for i in np.flatnonzero(chosen):
                    table[name][i] = np.asarray(new(np.asarray(table[name][i]), i), np.float32)
            else:
                target = table["head"]["idx"] if name in ismrmrd.EncodingCounters.__dict__ else table["head"]
                target[name][chosen] = new(target[name][chosen])
        return table

    rewrite(path, change)


def edit_xml(path: Path, old: str, new: str) -> None:
    with h5py.File(path, "r+") as file:
        text = file["dataset/xml"][0].decode()
        assert old in text
        file["dataset/xml"][0] = text.replace(old, new).encode()


def first(heads: np.ndarray) -> np.ndarray:
    return np.arange(len(heads)) == 3


def line_7(heads: np.ndarray) -> np.ndarray:
    return heads["idx"]["kspace_encode_step_1"] == 7


def fewer_coils(path: Path) -> None:
    edit(path, where=first, data=lambda d, _: d[: len(d) // 2], active_channels=lambda n: n // 2)


def drop(which: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda path: rewrite(path, lambda table: table[~which(table["head"])])


def set_flag(flag: int) -> Callable[[Path], None]:
    return lambda path: edit(path, where=first, flags=lambda f: f | np.uint64(1 << (flag - 1)))


def undersampled(path: Path) -> None:
    drop(lambda h: h["idx"]["kspace_encode_step_1"] % 2 == 1)(path)
    edit_xml(path, "<kspace_encoding_step_1>1<", "<kspace_encoding_step_1>2<")


FAULTS: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "coils": (fewer_coils, {"where": "scan.h5", "got": "2, 4"}),
    "NaN": (
        lambda p: edit(p, where=first, data=lambda d, _: d * np.nan),
        {"where": "scan.h5", "what": "samples that are not finite"},
    ),
    "a missing line": (drop(line_7), {"where": "scan.h5", "what": "missing encoding lines: 16 of 384"}),
    "a line of one slice": (drop(first), {"where": "scan.h5", "expected": "one mask for all"}),
    "a slice": (drop(lambda h: h["idx"]["slice"] == 2), {"where": "scan.h5", "got": 15}),
    "no calibration": (undersampled, {"where": "scan.h5", "got": "1 x 1"}),
    "length": (lambda p: edit(p, where=first, data=lambda d, _: d[:-2]), {"where": "scan.h5", "got": 207}),
    "EPI": (
        set_flag(ismrmrd.ACQ_IS_REVERSE),
        {"where": "scan.h5", "what": "readouts in both directions (EPI), which is not supported"},
    ),
    "noise": (
        set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT),
        {"where": "scan.h5", "what": "missing encoding lines: the slices were not measured alike"},
    ),
    "position": (
        lambda p: edit(p, where=first, position=lambda x: x + 1),
        {"where": "scan.h5", "what": "the position of slice 0 changes between acquisitions"},
    ),
    "turned": (
        lambda p: edit(p, where=first, read_dir=lambda x: -x),
        {"where": "scan.h5", "what": "the orientation changes between acquisitions"},
    ),
    "skewed": (
        lambda p: edit(p, read_dir=lambda x: x + 0.1),
        {"where": "scan.h5", "what": "readout, phase and slice directions are not orthogonal"},
    ),
    "a gap": (
        lambda p: edit(p, where=lambda h: h["idx"]["slice"] == 5, position=lambda x: x + np.array([0, 0, 0.5])),
        {"where": "scan.h5", "expected": "parallel slices at equal distances"},
    ),
    "line": (lambda p: edit(p, where=first, kspace_encode_step_1=lambda n: n + 90), {"where": "scan.h5", "got": 93}),
    "readout": (lambda p: edit_xml(p, "<x>52</x>", "<x>40</x>"), {"where": "scan.h5", "got": "-6 to 46"}),
    "centre": (
        lambda p: edit(p, discard_pre=lambda _: 27),
        {"where": "scan.h5", "what": "a partial readout without its centre sample", "got": -1},
    ),
    "no data": (
        lambda p: rewrite(p, lambda t: t[:0]),
        {"where": "scan.h5", "expected": "contrast 0, phase 0, repetition 0, set 0"},
    ),
    "EPI trajectory": (lambda p: edit_xml(p, ">cartesian<", ">epi<"), {"where": "scan.h5", "got": "epi"}),
    "no trajectory": (
        lambda p: edit_xml(p, ">cartesian<", f">{SUBJECT}<"),
        {"where": "scan.h5", "what": "no trajectory in the XML header"},
    ),
    "XML": (lambda p: edit_xml(p, "</encoding>", ""), {"where": "scan.h5", "what": "the XML header is damaged"}),
    "entities": (
        lambda p: edit_xml(p, "<ismrmrdHeader", "<!DOCTYPE x []><ismrmrdHeader"),
        {"where": "scan.h5", "what": "an XML header that declares entities"},
    ),
    "a word": (
        lambda p: edit_xml(p, "<x>52</x>", "<x>wide</x>"),
        {"where": "scan.h5", "what": "matrixSize.x in the XML header is no number"},
    ),
    "no field": (
        lambda p: edit_xml(p, "<x>52</x>", "<x>0</x>"),
        {"where": "scan.h5", "got": "[0, 24, 1] samples, [57.2, 28.799999999999997, 3.0] mm"},
    ),
}


def test_an_encoding_that_the_header_declares_is_of_no_account(path: Path) -> None:
    write_ismrmrd(path, VOLUME, MAPS, affine=AFFINE)
    wanted = read(path).data
    edit_xml(path, 'encoding="ascii"', 'encoding="none-1"')
    assert torch.equal(read(path).data, wanted)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_an_ismrmrd_file_lacks_is_said(path: Path, fault: str) -> None:
    write_ismrmrd(path, VOLUME, MAPS, affine=AFFINE, subject=SUBJECT)
    damage, fields = FAULTS[fault]
    damage(path)
    with pytest.raises(InputError) as caught:
        read(path)
    assert {name: getattr(caught.value, name) for name in fields} == fields
    assert "\n" not in str(caught.value)
    assert SUBJECT not in str(caught.value)


def test_lines_left_out_on_purpose(path: Path) -> None:
    write_ismrmrd(path, VOLUME, MAPS, affine=AFFINE, mask=LINES)
    with pytest.raises(InputError) as caught:
        read(path)
    assert (caught.value.where, caught.value.expected) == (
        "scan.h5",
        "all that the header announces, which has no acceleration",
    )
    check_round_trip(read(path, allow_missing=True))


def test_too_small_a_calibration_region(path: Path) -> None:
    write_ismrmrd(path, VOLUME, MAPS, affine=AFFINE)
    undersampled(path)
    m = read(path, coil_maps="low_resolution")
    assert m.operator is not None
    assert m.operator["coil_maps"].shape == MAPS.shape
    k = radial((26, 24), 12, 52, golden=True)
    write_ismrmrd(path, VOLUME, MAPS, trajectory=k)
    with pytest.raises(InputError) as caught:
        read(path)
    assert (caught.value.where, caught.value.got) == ("scan.h5", "5 x 5")


def test_radial_acquisitions_that_are_not_supported(path: Path) -> None:
    k = radial((26, 24), 50, 52, golden=True)

    def write(**options: Any) -> None:
        write_ismrmrd(path, VOLUME, MAPS, affine=AFFINE, trajectory=options.pop("k", k), shot=52, **options)

    write(axes="SAR", k=radial((16, 24), 50, 52, golden=True))
    with pytest.raises(InputError) as caught:
        read(path)
    assert (caught.value.where, caught.value.expected) == ("scan.h5", "axial ones, or a Cartesian acquisition")
    write()
    edit(path, where=lambda h: h["idx"]["slice"] == 3, traj=lambda t, _: -t)
    with pytest.raises(InputError) as caught:
        read(path)
    assert (caught.value.where, caught.value.expected) == ("scan.h5", "one trajectory for all slices")
    write()
    drop(first)(path)
    with pytest.raises(InputError) as caught:
        read(path)
    assert (caught.value.where, caught.value.got) == ("scan.h5", [49] + 15 * [50])
    write()
    edit(path, traj=lambda t, _: t[::2], trajectory_dimensions=lambda n: n - 1)
    with pytest.raises(InputError) as caught:
        read(path)
    assert (caught.value.where, caught.value.expected, caught.value.got) == ("scan.h5", 2, 1)
    write()
    edit(path, where=first, traj=lambda t, _: t * np.nan)
    with pytest.raises(InputError) as caught:
        read(path)
    assert (caught.value.where, caught.value.what) == ("scan.h5", "a trajectory that is not finite")


FASTMRI_FAULTS: dict[str, tuple[Callable[[h5py.File], None], dict[str, Any]]] = {
    "no k-space": (lambda f: f.move("kspace", "image"), {"where": "scan.h5", "got": "image, ismrmrd_header, mask"}),
    "real": (lambda f: replaced(f, np.abs), {"where": "scan.h5", "got": "float32 (16, 4, 52, 24)"}),
    "two axes": (lambda f: replaced(f, lambda k: k[0, 0]), {"where": "scan.h5", "got": "complex64 (52, 24)"}),
    "NaN": (lambda f: replaced(f, lambda k: k * np.nan), {"where": "scan.h5", "what": "samples that are not finite"}),
    "empty": (lambda f: replaced(f, lambda k: k * 0), {"where": "scan.h5", "what": "nothing was measured"}),
    "mask": (lambda f: replaced(f, lambda m: m[:-1], "mask"), {"where": "scan.h5", "got": (23,)}),
    "no calibration": (
        lambda f: replaced(f, lambda m: m * (np.arange(24) % 2), "mask"),
        {"where": "scan.h5", "got": "0 x 0"},
    ),
    "a column of one slice": (lambda f: unlike(f), {"where": "scan.h5", "expected": "one mask for all"}),
}


def replaced(file: h5py.File, change: Callable[[np.ndarray], np.ndarray], name: str = "kspace") -> None:
    value = change(file[name][:])
    del file[name]
    file[name] = value


def unlike(file: h5py.File) -> None:
    del file["mask"]
    k = file["kspace"][:]
    k[2, :, :, 12] = 0
    replaced(file, lambda _: k)


@pytest.mark.parametrize("fault", FASTMRI_FAULTS)
def test_what_a_fastmri_file_lacks_is_said(path: Path, fault: str) -> None:
    write_fastmri(path, VOLUME, MAPS, mask=LINES, subject=SUBJECT)
    damage, fields = FASTMRI_FAULTS[fault]
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InputError) as caught:
        registry.create("readers", "fastmri").read(path)
    assert {name: getattr(caught.value, name) for name in fields} == fields
    assert "\n" not in str(caught.value)
    assert SUBJECT not in str(caught.value)


@pytest.mark.parametrize("kind", ["ismrmrd", "fastmri"])
def test_damaged_and_foreign_files(path: Path, kind: str) -> None:
    reader = registry.create("readers", kind)
    (write_ismrmrd if kind == "ismrmrd" else write_fastmri)(path, VOLUME, MAPS)
    content = path.read_bytes()
    damages: dict[bytes | None, tuple[str, str | None]] = {
        content[: len(content) // 2]: ("truncated or damaged", "OSError"),
        content[:6]: ("not an HDF5 file", None),
        b"no scan at all": ("not an HDF5 file", None),
        None: ("no such file", None),
    }
    for damage, (what, got) in damages.items():
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        assert not reader.recognises(path)
        with pytest.raises(InputError) as caught:
            reader.read(path)
        assert (caught.value.where, caught.value.what, caught.value.got) == ("scan.h5", what, got)
        assert SUBJECT not in str(caught.value)
        assert "\n" not in str(caught.value)
        path.touch()
    path.unlink()
    (write_fastmri if kind == "ismrmrd" else write_ismrmrd)(path, VOLUME, MAPS)
    assert not reader.recognises(path)
    with pytest.raises(InputError) as caught:
        reader.read(path)
    expected = "/dataset/xml and /dataset/data" if kind == "ismrmrd" else "a member 'kspace'"
    assert (caught.value.where, caught.value.expected) == ("scan.h5", expected)
    assert not reader.recognises(path.parent)


@pytest.mark.parametrize("volumetric", [False, True])
def test_directions_of_siemens_are_those_of_a_forward_transform(tmp_path: Path, volumetric: bool) -> None:
    path = tmp_path / "scan.h5"
    write_ismrmrd(path, VOLUME, volumetric=volumetric)  # one coil: no maps, whose edges differ
    usual = ISMRMRDReader().read(path)
    assert SIEMENS not in usual.notices
    vendor = "<acquisitionSystemInformation><systemVendor>SIEMENS</systemVendor></acquisitionSystemInformation>"
    edit_xml(path, "<encoding>", f"{vendor}<encoding>")
    turned, said = ISMRMRDReader().read(path), ISMRMRDReader(transform="inverse").read(path)
    assert SIEMENS in turned.notices
    assert said.notices == usual.notices
    assert torch.equal(said.data, usual.data)
    axes, shape = range(3 if volumetric else 2), np.array(usual.geometry.shape)
    image = image_of(usual).abs().flip([1 + axis for axis in axes])
    torch.testing.assert_close(image_of(turned).abs(), image, rtol=0, atol=1e-4)
    # The centre of the field of view stays where it was.
    before, after = shape // 2, shape // 2
    after[list(axes)] = (shape - 1 - before)[list(axes)]
    places = [np.asarray(m.geometry.affine) @ [*at, 1.0] for m, at in ((usual, before), (turned, after))]
    np.testing.assert_allclose(places[1], places[0], rtol=0, atol=1e-4)


def test_of_a_trajectory_of_siemens_nothing_is_assumed(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    write_ismrmrd(path, VOLUME, trajectory=radial((26, 24), 50, 52, golden=True), shot=52)
    usual = ISMRMRDReader().read(path)
    vendor = "<acquisitionSystemInformation><systemVendor>SIEMENS</systemVendor></acquisitionSystemInformation>"
    edit_xml(path, "<encoding>", f"{vendor}<encoding>")
    unsaid = ISMRMRDReader().read(path)
    assert unsaid.notices == (*usual.notices, SIEMENS_TRAJECTORY)
    assert unsaid.geometry == usual.geometry


@pytest.mark.parametrize(
    ("kind", "options", "where", "got"),
    [
        ("ismrmrd", {"contrast": -1}, "reader#contrast", "-1"),
        ("ismrmrd", {"coil_maps": "grappa"}, "reader#coil_maps", "'grappa'"),
        ("ismrmrd", {"transform": "fft"}, "reader#transform", "'fft'"),
        ("ismrmrd", {"calibration": 2}, "reader#calibration", "2"),
        ("ismrmrd", {"allow_missing": 2}, "reader#allow_missing", "2"),
        ("ismrmrd", {"trajectory_unit": "1/m"}, "reader#trajectory_unit", "'1/m'"),
        ("ismrmrd", {"noise_std": -1.0}, "reader#noise_std", "-1.0"),
        ("fastmri", {"axes": "RLS"}, "reader#axes", "'RLS'"),
        ("fastmri", {"axes": 3}, "reader#axes", "3"),
        ("fastmri", {"spacing": 0.0}, "reader#spacing", "0.0"),
        ("ismrmrd", {"spacing": "1 mm"}, "reader#spacing", "'1 mm'"),
        ("fastmri", {"noise_std": "low"}, "reader#noise_std", "'low'"),
    ],
)
def test_wrong_reader_options(kind: str, options: dict[str, Any], where: str, got: object) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.create("readers", kind, **options)
    assert (caught.value.where, caught.value.got) == (where, got)
