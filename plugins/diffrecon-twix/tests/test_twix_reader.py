# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Simulated Siemens files of an object whose signal is known: image, affine, mask and averages."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import twixtools
from scipy.spatial.transform import Rotation
from twixtools.geometry import prs2sct_mdb

from diffrecon_mri.orientation import lps_to_ras
from diffrecon_twix.acquisitions import directions, read_acquisitions
from diffrecon_twix.protocol import Protocol
from diffrecon_twix.simulate import SimulatedLine, write_simulated_twix
from diffrecon_twix.twix_file import TwixFile
from diffrecon_twix.twix_reader import TwixReader
from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.protocols import Measurement

VOXEL, BASE, LINES, STEP = 5.0, 24, 20, 7.0
CENTRE = np.array([12.0, -31.0, 44.0])  # LPS, mm
#: Centres (LPS, relative to the stack), widths (mm) and amplitudes of Gaussians: no symmetry maps them to another.
BLOBS = [((8.0, 5.0, -4.0), 8.0, 1.0), ((-7.0, 3.0, 6.0), 7.5, 0.6), ((1.0, -9.0, 4.0), 8.5, 0.8)]
SUBJECT = "DOE^JANE"


def scanner_axes(normal: tuple[float, float, float], turn: float) -> np.ndarray:
    """Phase, readout and slice (columns, LPS) as the scanner derives them from normal and in-plane rotation."""
    n = np.array(normal) / np.linalg.norm(normal)
    main = int(np.argmax(np.abs(n)))
    if main == 2:
        phase = np.array([0.0, n[2], -n[1]])
    elif main == 1:
        phase = np.array([n[1], -n[0], 0.0])
    else:
        phase = np.array([-n[1], n[0], 0.0])
    phase /= np.linalg.norm(phase)
    phase = np.cos(turn) * phase - np.sin(turn) * np.cross(n, phase)
    return np.stack([phase, np.cross(n, phase), n], axis=1)


def quaternion(axes: np.ndarray) -> tuple[float, float, float, float]:
    x, y, z, w = Rotation.from_matrix(axes).as_quat()
    return float(w), float(x), float(y), float(z)


def density(points: np.ndarray) -> np.ndarray:
    """The object at points (..., 3) in LPS."""
    return sum(a * np.exp(-((points - CENTRE - c) ** 2).sum(-1) / (2 * s**2)) for c, s, a in BLOBS)


def signal(axes: np.ndarray, centre: np.ndarray, k: np.ndarray, encoded: int) -> np.ndarray:
    """The signal at frequencies k (..., 3) along readout, phase and slice, of a scanner whose images are
    forward transforms: the integral over the ``encoded`` first axes of density times exp(+2 pi i k x)."""
    frame = axes[:, [1, 0, 2]]
    total = np.zeros(k.shape[:-1], complex)
    for c, s, a in BLOBS:
        x = frame.T @ (CENTRE + c - centre)
        value = a * np.exp(-(x[encoded:] ** 2).sum() / (2 * s**2)) * (2 * np.pi * s**2) ** (encoded / 2)
        f = k[..., :encoded]
        total += value * np.exp(-2 * np.pi**2 * s**2 * (f**2).sum(-1) + 2j * np.pi * f @ x[:encoded])
    return total


def acquire(
    axes: np.ndarray, *, slices: int = 3, partitions: int = 0, columns: tuple[int, int] = (0, 2 * BASE)
) -> list[SimulatedLine]:
    """The lines of slices, out of order as scanners measure them, or of the partitions of a slab."""
    out, depth = [], max(partitions, 1)
    kr = (np.arange(*columns) - BASE) / (2 * BASE * VOXEL)
    for number in [*range(1, slices, 2), *range(0, slices, 2)]:
        at = CENTRE + axes[:, 2] * STEP * (number - (slices - 1) / 2)
        for line in range(LINES):
            for part in range(depth):
                k = np.zeros((len(kr), 3))
                k[:, 0] = kr
                k[:, 1] = (line - LINES // 2) / (LINES * VOXEL)
                k[:, 2] = (part - depth // 2) / (depth * VOXEL)
                value = signal(axes, at, k, 3 if partitions else 2)
                # In units in which the orthonormal transform of all samples is the density.
                field = np.sqrt(2 * BASE * LINES * depth) * VOXEL ** (3 if partitions else 2)
                out.append(
                    SimulatedLine(
                        samples=value[None] / field,
                        quaternion=quaternion(axes),
                        position=tuple(at),
                        counters={"Lin": line, "Par": part, "Sli": number},
                        centre=(BASE - columns[0], LINES // 2, depth // 2),
                    )
                )
    return out


def protocol(*, slices: int = 3, partitions: int = 0, **more: Any) -> dict[str, Any]:
    entries: dict[str, Any] = {
        "tProtocolName": f'"{SUBJECT}"',
        "sSliceArray.lSize": slices,
        "sKSpace.lBaseResolution": BASE,
        "sKSpace.lPhaseEncodingLines": LINES,
        "sKSpace.lPartitions": partitions or 16,
        "sKSpace.dPhaseOversamplingForDialog": 0.25,
        "sKSpace.ucDimension": "0x4" if partitions else 2,
    }
    for i in range(slices):
        entries[f"sSliceArray.asSlice[{i}].dReadoutFOV"] = BASE * VOXEL
        entries[f"sSliceArray.asSlice[{i}].dPhaseFOV"] = LINES * VOXEL / 1.25
        entries[f"sSliceArray.asSlice[{i}].dThickness"] = partitions * VOXEL if partitions else 6.0
    return {**entries, **{key.replace("__", "."): value for key, value in more.items()}}


TILTED = scanner_axes((0.0, 0.0384, 0.9993), 0.0)
PLANES = {
    "transverse": scanner_axes((0.05, 0.1, 0.99), 0.0),
    "transverse, turned": scanner_axes((0.1, -0.1, 0.98), 1.7),
    "transverse, upside down": scanner_axes((0.1, -0.2, -0.95), 0.3),
    "coronal": scanner_axes((0.2, 0.95, -0.1), 0.2),
    "sagittal": scanner_axes((0.97, 0.1, 0.2), -0.4),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / SUBJECT
    folder.mkdir()
    return folder / "scan.dat"


def read(path: Path, **options: Any) -> Measurement:
    reader = TwixReader(**options)
    assert reader.recognises(path)
    return reader.read(path)


def image(m: Measurement) -> np.ndarray:
    assert m.operator is not None
    return registry.build("operators", m.operator, geometry=m.geometry).adjoint(m.data)[0].abs().numpy()


def world(m: Measurement) -> np.ndarray:
    """Centres of the voxels, LPS."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in m.geometry.shape), indexing="ij"), -1)
    affine = np.asarray(m.geometry.affine)
    return lps_to_ras((index @ affine[:3, :3].T + affine[:3, 3]).reshape(-1, 3).T).T.reshape(index.shape)


@pytest.mark.parametrize("multi_raid", [True, False])
@pytest.mark.parametrize("plane", list(PLANES))
def test_slices_show_the_object_where_it_is(path: Path, plane: str, multi_raid: bool) -> None:
    write_simulated_twix(path, acquire(PLANES[plane]), protocol(), multi_raid=multi_raid)
    m = read(path)
    assert m.operator is not None
    assert bool(m.operator["mask"].all())
    assert sorted(m.geometry.spacing) == pytest.approx([VOXEL, VOXEL, STEP], abs=1e-4)
    assert sorted(m.geometry.shape) == sorted([BASE, LINES, 3])
    np.testing.assert_allclose(image(m), density(world(m)), rtol=0, atol=2e-4)
    assert m.notices == ()


@pytest.mark.parametrize("plane", ["transverse, turned", "sagittal"])
def test_a_slab_shows_the_object_where_it_is(path: Path, plane: str) -> None:
    lines = acquire(PLANES[plane], slices=1, partitions=18)
    write_simulated_twix(path, lines, protocol(slices=1, partitions=18))
    m = read(path)
    assert m.operator is not None
    assert m.operator["name"] == "cartesian_mri_3d"
    assert m.geometry.spacing == pytest.approx([VOXEL] * 3, abs=1e-4)
    np.testing.assert_allclose(image(m), density(world(m)), rtol=0, atol=2e-4)


def test_the_affine_is_that_of_the_protocol_by_hand(path: Path) -> None:
    lines = acquire(TILTED, slices=1)
    write_simulated_twix(path, lines, protocol(slices=1))
    # Normal (0, 0.0384, 0.9993): the phase axis is (0, 0.9993, -0.0384), the readout (-1, 0, 0), in LPS. Images grow
    # against both, and RAS+ turns the readout: X is 5 (1, 0, 0), Y is 5 (0, 0.9993, 0.0384), and Z is
    # 6 (0, -0.0384, 0.9993).
    expected = np.eye(4)
    c, s = 0.9993 / np.hypot(0.0384, 0.9993), 0.0384 / np.hypot(0.0384, 0.9993)
    expected[:3, :3] = np.array([[5.0, 0, 0], [0, 5 * c, -6 * s], [0, 5 * s, 6 * c]])
    # The centre (-12, 31, 44) in RAS+ is the voxel 12 of the readout as measured, 11 when turned, and 10 of the phase.
    expected[:3, 3] = np.array([-12.0, 31.0, 44.0]) - expected[:3, :3] @ [11, 10, 0]
    np.testing.assert_allclose(np.asarray(read(path).geometry.affine), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("plane", list(PLANES))
def test_the_directions_are_those_of_twixtools(path: Path, plane: str) -> None:
    write_simulated_twix(path, acquire(PLANES[plane]), protocol())
    scan = twixtools.read_twix(
        str(path), parse_prot=False, parse_pmu=False, parse_geometry=False, verbose=False, keep_syncdata=False
    )[0]
    scan["mdb"][0].fid.close()
    # Phase, readout, slice as columns.
    theirs = prs2sct_mdb({"hdr": {"Config": {"chronSliceIndices": "-"}}, "mdb": scan["mdb"]}, 0)
    ours = directions(scan["mdb"][0].mdh.SliceData.Quaternion, False, "scan")
    np.testing.assert_allclose(ours, theirs[:, [1, 0, 2]], rtol=0, atol=1e-6)


def test_partial_fourier_and_an_asymmetric_echo_are_a_mask(path: Path) -> None:
    axes = scanner_axes((0.0, 0.0, 1.0), 0.0)
    lines = [line for line in acquire(axes, slices=1, columns=(8, 2 * BASE)) if line.counters["Lin"] >= 5]
    # The first two of the samples are no good.
    lines = [replace(line, cut=(2, 0)) for line in lines]
    more = {"sKSpace__ucPhasePartialFourier": "0x4", "sKSpace__ucReadoutPartialFourier": "0x4"}
    write_simulated_twix(path, lines, protocol(slices=1, **more))
    m = read(path)
    assert m.operator is not None
    assert m.operator["encoded"] == [2 * BASE, LINES, 1]
    # The readout runs to the left, X to the right: frequency k of X is -k of the readout. The phase axis stays.
    readout = np.arange(2 * BASE) >= 10
    expected = np.outer(readout[-np.arange(2 * BASE) % (2 * BASE)], np.arange(LINES) >= 5)
    np.testing.assert_array_equal(m.operator["mask"].numpy(), expected)
    # A half-measured object is its own conjugate mirror: the measured samples still hold the truth.
    assert m.geometry.shape == (BASE, LINES, 1)
    operator = registry.build("operators", m.operator, geometry=m.geometry)
    truth = torch.from_numpy(density(world(m))).to(torch.complex64)[None]
    # Truth is real, and the operator's k-space that of the whole object, up to what lies outside of the field of view.
    assert float((operator.forward(truth) - m.data).norm() / m.data.norm()) < 0.02


def test_missing_lines_are_refused_unless_meant(path: Path) -> None:
    lines = [line for line in acquire(TILTED) if line.counters["Lin"] % 2 == 0 or 2 < line.counters["Lin"] < 18]
    write_simulated_twix(path, lines, protocol())
    with pytest.raises(InputError) as caught:
        read(path)
    assert (caught.value.where, caught.value.expected) == (
        "scan.dat",
        "all that the header announces, which has no acceleration",
    )
    assert float(read(path, allow_missing=True).operator["mask"].float().mean()) == pytest.approx(18 / LINES)
    write_simulated_twix(path.with_name("pat.dat"), lines, protocol(sPat__lAccelFactPE=2))
    assert float(read(path.with_name("pat.dat")).operator["mask"].float().mean()) == pytest.approx(18 / LINES)


def test_spacing_asks_for_other_voxels(path: Path) -> None:
    write_simulated_twix(path, acquire(TILTED), protocol())
    m = read(path, spacing=4.0)
    assert m.geometry.shape == (30, 25, 3)
    assert m.geometry.spacing == pytest.approx([4.0, 4.0, STEP], abs=1e-4)
    assert "4 x 4 mm" in m.notices[0]


def counted(lines: list[SimulatedLine], name: str, scales: list[float]) -> list[SimulatedLine]:
    return [
        replace(line, samples=scale * line.samples, counters={**line.counters, name: i})
        for line in lines
        for i, scale in enumerate(scales)
    ]


def test_one_of_several_images_is_chosen(path: Path) -> None:
    lines = acquire(TILTED, slices=1)
    write_simulated_twix(path, counted(lines, "Eco", [1.0, 0.5]), protocol(slices=1))
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.got == "echo 0, 1"
    assert "option echo" in (caught.value.mend or "")
    m = read(path, echo=1)
    np.testing.assert_allclose(image(m), 0.5 * density(world(m)), rtol=0, atol=2e-4)
    with pytest.raises(InputError) as caught:
        read(path, echo=2)
    assert (caught.value.expected, caught.value.got) == ("echo 0, 1", "echo 2")


def test_averages_are_chosen_or_averaged(path: Path) -> None:
    lines = counted(acquire(TILTED, slices=1), "Ave", [1.0, 0.5])
    write_simulated_twix(path, lines, protocol(slices=1))
    with pytest.raises(InputError) as caught:
        read(path)
    assert "mean" in (caught.value.mend or "")
    for option, scale in ((0, 1.0), (1, 0.5), ("mean", 0.75)):
        m = read(path, average=option)
        np.testing.assert_allclose(image(m), scale * density(world(m)), rtol=0, atol=2e-4)
    # The central half of the lines twice: they weigh twice as much.
    lines = [line for line in lines if line.counters["Ave"] == 0 or 5 <= line.counters["Lin"] < 15]
    write_simulated_twix(path.with_name("half.dat"), lines, protocol(slices=1))
    weights = read(path.with_name("half.dat"), average="mean").weights
    assert weights is not None
    np.testing.assert_allclose(weights[0, 0, :, 0].numpy(), [0.5] * 5 + [1.0] * 10 + [0.5] * 5)
    with pytest.raises(ConfigError):
        TwixReader(average="all")


def acquisitions(path: Path, **wanted: int) -> Any:
    with path.open("rb") as stream:
        file = TwixFile(stream, -1, path.name)
        options = dict.fromkeys(("echo", "average", "repetition", "phase", "set"))
        return read_acquisitions(file, Protocol(file), {**options, **wanted})


def test_noise_lines_make_the_noise_white(path: Path) -> None:
    rng = np.random.default_rng(0)
    factor = np.array([[1.0, 0.0], [0.8 - 0.4j, 0.5]]) * 1e-6

    def noise(n: int) -> np.ndarray:
        return factor @ (rng.standard_normal((2, n)) + 1j * rng.standard_normal((2, n)))

    lines = [replace(line, samples=noise(2 * BASE)) for line in acquire(TILTED)]
    scans = [replace(lines[0], samples=noise(256), flags=("NOISEADJSCAN",)) for _ in range(32)]
    write_simulated_twix(path, [*scans, *lines], protocol())
    found = acquisitions(path)
    assert len(found.data) == len(lines)
    white = np.concatenate(found.data, axis=1)
    covariance = white @ white.conj().T / white.shape[1] / 2
    np.testing.assert_allclose(covariance, np.eye(2), rtol=0, atol=0.06)


@pytest.mark.parametrize("embedded", [True, False])
def test_calibration_lines_belong_to_the_image_when_the_protocol_says_so(path: Path, embedded: bool) -> None:
    def flags(line: int) -> tuple[str, ...]:
        if not 6 <= line < 14:
            return ()
        return ("PATREFSCAN", "PATREFANDIMASCAN") if line % 2 == 0 else ("PATREFSCAN",)

    lines = [line for line in acquire(TILTED) if line.counters["Lin"] % 2 == 0 or flags(line.counters["Lin"])]
    lines = [replace(line, flags=flags(line.counters["Lin"])) for line in lines]
    # The calibration of the second repetition was measured once, with the first.
    lines += [
        replace(line, counters={**line.counters, "Rep": 1})
        for line in lines
        if line.flags in ((), ("PATREFSCAN", "PATREFANDIMASCAN")) or embedded
    ]
    mode = "0x2" if embedded else "0x4"
    write_simulated_twix(path, lines, protocol(sPat__lAccelFactPE=2, sPat__ucRefScanMode=mode))
    for repetition in (0, 1):
        found = acquisitions(path, repetition=repetition)
        imaged = {int(n) for n in found.heads["idx"]["kspace_encode_step_1"]}
        calibrated = {int(n) for n in found.calibration_heads["idx"]["kspace_encode_step_1"]}
        assert imaged == ({*range(0, LINES, 2), 7, 9, 11, 13} if embedded else set(range(0, LINES, 2)))
        assert (calibrated == set()) if embedded else calibrated >= {6, 8, 10, 12}


def test_the_last_measurement_is_the_image(path: Path) -> None:
    write_simulated_twix(path, acquire(TILTED, slices=1), protocol(slices=1))
    write_simulated_twix(path.with_name("b.dat"), acquire(TILTED), protocol())
    first, second = bytearray(path.read_bytes()), path.with_name("b.dat").read_bytes()[10240:]
    # Two entries of 152 bytes after the number of them; offset and length are at 8 and 16.
    struct.pack_into("<I", first, 4, 2)
    struct.pack_into("<QQ", first, 8 + 152 + 8, len(first), len(second))
    path.write_bytes(first + second)
    assert read(path).geometry.shape == (BASE, LINES, 3)
    assert read(path, measurement=0).geometry.shape == (BASE, LINES, 1)
    with pytest.raises(InputError) as caught:
        read(path, measurement=2)
    assert (caught.value.expected, caught.value.got) == ("0 to 1, or -1", 2)


def turned(lines: list[SimulatedLine]) -> list[SimulatedLine]:
    return [replace(line, quaternion=quaternion(PLANES["coronal"])) if line.counters["Sli"] else line for line in lines]


def moved(lines: list[SimulatedLine]) -> list[SimulatedLine]:
    return [
        replace(line, position=tuple(CENTRE + TILTED[:, 2] * 50.0)) if line.counters["Sli"] == 2 else line
        for line in lines
    ]


@pytest.mark.parametrize(
    ("entries", "change", "says"),
    [
        ({"sKSpace__ucTrajectory": "0x2"}, None, "not Cartesian"),
        ({"sKSpace__ucDimension": 1}, None, "dimensions"),
        ({"sFastImaging__lEPIFactor": 32}, None, "EPI"),
        ({"sSliceAcceleration__lMultiBandFactor": 2}, None, "at once"),
        ({"sKSpace__ucDimension": 4}, None, "slabs"),
        ({"sSliceArray.asSlice[1].dThickness": 7.5}, None, "different fields"),
        ({"sSliceArray__lSize": 2}, None, "slices"),
        ({"sSliceArray.lSize": 4, "sSliceArray.asSlice[3].dReadoutFOV": 1.0}, None, "missing"),
        ({"sKSpace__lBaseResolution": None}, None, "lBaseResolution"),
        ({"sKSpace__lBaseResolution": "9" * 60}, None, "lBaseResolution"),
        ({"sKSpace__lPhaseEncodingLines": "nan"}, None, "lPhaseEncodingLines"),
        ({}, turned, "orientation changes"),
        ({}, moved, "no regular stack"),
        ({}, lambda lines: [replace(line, flags=("REFLECT",)) for line in lines], "both directions"),
        ({}, lambda lines: [replace(lines[0], flags=("RAWDATACORRECTION",)), *lines[1:]], "scaled"),
        ({}, lambda lines: [replace(lines[0], samples=np.zeros((2, 48))), *lines[1:]], "number of coils"),
        ({}, lambda lines: [replace(lines[0], centre=(24, 3, 0)), *lines[1:]], "centre of k-space"),
        ({}, lambda lines: [replace(lines[0], quaternion=(0.0, 0.0, 0.0, 0.0)), *lines[1:]], "no rotation"),
        ({}, lambda lines: [replace(lines[0], position=(np.nan, 0.0, 0.0)), *lines[1:]], "position"),
        ({}, lambda lines: [replace(lines[0], samples=np.full((1, 48), np.nan)), *lines[1:]], "not finite"),
        ({}, lambda lines: [replace(lines[0], cut=(30, 30)), *lines[1:]], "without samples"),
        ({}, lambda lines: [replace(line, flags=("PHASCOR",)) for line in lines], "no line of an image"),
    ],
)
def test_what_is_not_supported_is_one_line(
    path: Path, entries: dict[str, Any], change: Callable[..., Any] | None, says: str
) -> None:
    lines = acquire(TILTED)
    write_simulated_twix(path, change(lines) if change else lines, protocol(**entries))
    with pytest.raises(InputError) as caught:
        read(path)
    assert says in caught.value.what
    text = str(caught.value)
    assert caught.value.where == "scan.dat"
    assert caught.value.exit_code == 2
    assert "\n" not in text
    assert SUBJECT not in text


def test_ramp_sampling_is_refused(path: Path) -> None:
    meas = '<ParamLong."alRegridMode">  { 2 1 1  }'
    write_simulated_twix(path, acquire(TILTED), protocol(), meas=meas)
    with pytest.raises(InputError) as caught:
        read(path)
    assert (caught.value.where, caught.value.expected) == ("scan.dat", "Cartesian 2D slices, or one 3D slab")
    assert "ramps" in caught.value.what


def test_another_oversampling_of_the_readout_is_that_of_the_header(path: Path) -> None:
    lines = [replace(line, samples=line.samples[:, 6:-6], centre=(18, 10, 0)) for line in acquire(TILTED)]
    meas = '<ParamDouble."flReadoutOSFactor">  { <Precision> 6  1.500000  }'
    write_simulated_twix(path, lines, protocol(), meas=meas)
    assert read(path).geometry.shape == (BASE, LINES, 3)


def test_nothing_about_the_subject_is_read(path: Path) -> None:
    write_simulated_twix(path, acquire(TILTED), protocol(), meas=f'<ParamString."tPatientName"> {{ "{SUBJECT}" }}')
    assert SUBJECT not in repr(read(path))
