# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The acquisitions of an ISMRMRD file or stream, sorted by what they are for, with white noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import torch
from ismrmrd.hdf5 import acquisition_header_dtype

from diffrecon_mri.hdf5_files import opened, read_table, read_text
from diffrecon_mri.ismrmrd.header import Encoding, parse_header
from diffrecon_mri.kspace_noise import prewhiten, prewhitening_matrix
from diffrecon_mri.orientation import lps_to_ras
from monai_diffrecon.errors import InputError

#: Acquisitions that are neither image, nor calibration, nor noise.
_OTHER = (
    ismrmrd.ACQ_IS_NAVIGATION_DATA,
    ismrmrd.ACQ_IS_PHASECORR_DATA,
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
    ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION,
)


#: No coordinate (mm) and no dwell time (microseconds) is so large.
_FAR = 1e9


@dataclass(frozen=True)
class Acquisitions:
    """What an ISMRMRD file or stream holds of one image.

    Attributes:
        encoding: sizes of the header.
        heads: headers of the imaging acquisitions, a structured array.
        data: their samples, each (coils, samples), without those to discard.
        trajectories: their trajectories, each (samples, dimensions).
        calibration_heads: headers of the calibration acquisitions, when some of them are not part of the image.
        calibration: their samples.
        noise_std: 1 when the noise was scanned, and the data therefore are white; None when it was not.
    """

    encoding: Encoding
    heads: np.ndarray
    data: list[np.ndarray]
    trajectories: list[np.ndarray]
    calibration_heads: np.ndarray
    calibration: list[np.ndarray]
    noise_std: float | None


def read_acquisitions(path: Path, counters: dict[str, int]) -> Acquisitions:
    """Read a file.

    Args:
        path: the file.
        counters: which image to take: ``contrast``, ``phase``, ``repetition`` and ``set`` of the encoding counters.

    Raises:
        InputError: damaged, of another kind, without such an image, or with acquisitions that do not fit together.
    """
    where = path.name
    with opened(path) as file:
        xml, table = read_text(file, "dataset/xml", where), read_table(file, "dataset/data", where)
    if xml is None or table is None:
        raise InputError("not an ISMRMRD file", where=where, expected="/dataset/xml and /dataset/data")
    if not _holds_acquisitions(table.dtype):
        raise InputError("not an ISMRMRD file", where=where, expected="acquisitions with head, traj and data")
    return sorted_acquisitions(xml, table, counters, where)


def sorted_acquisitions(xml: str | bytes, table: np.ndarray, counters: dict[str, int], where: str) -> Acquisitions:
    """Sort the acquisitions of a file or a stream.

    Args:
        xml: the header.
        table: an acquisition a row, with the fields ``head`` (ISMRMRD's ``acquisition_header_dtype``), ``traj`` and
            ``data`` (float32 arrays, real and imaginary parts in turn).
        counters: as for :func:`read_acquisitions`.
        where: name of the file, for messages.

    Raises:
        InputError: no such image, or acquisitions that do not fit together.
    """
    encoding = parse_header(xml, where)
    heads, flags = table["head"], table["head"]["flags"]
    for field in ("position", "read_dir", "phase_dir", "slice_dir", "sample_time_us"):
        if not (np.abs(heads[field]) < _FAR).all():
            raise InputError(f"{field} of an acquisition is no number of a scan", where=where)
    noise, wanted = _flagged(flags, ismrmrd.ACQ_IS_NOISE_MEASUREMENT), of_image(heads)
    for name, value in counters.items():
        wanted &= heads["idx"][name] == value
    both = wanted & _flagged(flags, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
    alone = wanted & _flagged(flags, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION) & ~both
    separate = alone.any() and not encoding.embedded
    imaging = wanted & ~alone if separate else wanted
    calibration = alone | both if separate else np.zeros_like(alone)
    if not imaging.any():
        raise InputError(
            "no acquisition of an image", where=where, expected=", ".join(f"{k} {v}" for k, v in counters.items())
        )
    if _flagged(flags[imaging], ismrmrd.ACQ_IS_REVERSE).any():
        raise InputError("readouts in both directions (EPI), which is not supported", where=where)
    used = imaging | calibration
    coils = sorted({int(n) for n in heads["active_channels"][used | noise]})
    if len(coils) != 1 or coils[0] < 1:
        raise InputError(
            "the number of coils changes between acquisitions", where=where, got=", ".join(map(str, coils))
        )
    data = {int(i): _samples(table[i], where) for i in np.flatnonzero(used)}
    white = _whitening(table[noise], heads[imaging], encoding, where) if noise.any() else None
    if white is not None:
        data = {i: prewhiten(torch.from_numpy(d), white).numpy() for i, d in data.items()}
    images = [int(i) for i in np.flatnonzero(imaging)]
    return Acquisitions(
        encoding=encoding,
        heads=heads[imaging],
        data=[data[i] for i in images],
        trajectories=[_trajectory(table[i], where) for i in images],
        calibration_heads=heads[calibration],
        calibration=[data[int(i)] for i in np.flatnonzero(calibration)],
        noise_std=None if white is None else 1.0,
    )


def of_image(heads: np.ndarray) -> np.ndarray:
    """Return which acquisitions belong to an image or its calibration, by their headers."""
    wanted = heads["encoding_space_ref"] == 0
    for flag in (ismrmrd.ACQ_IS_NOISE_MEASUREMENT, *_OTHER):
        wanted = wanted & ~_flagged(heads["flags"], flag)
    return wanted


def against_encoding(heads: np.ndarray, *, volumetric: bool) -> np.ndarray:
    """Return headers with the directions of images by an inverse transform, of headers with those of a forward one.

    The Fourier-encoded axes run the other way; the order of 2D slices stays. The position is that of voxel n // 2 of
    both images.
    """
    turned = heads.copy()
    for name in ("read_dir", "phase_dir", *(("slice_dir",) if volumetric else ())):
        turned[name] *= -1
    return turned


def directions_ras(heads: np.ndarray, where: str) -> np.ndarray | None:
    """Return unit columns (3, 3) along readout, phase encoding and slices in RAS+; None when the file has none.

    Raises:
        InputError: the acquisitions differ, or the directions are not orthogonal.
    """
    columns = np.stack([heads[name].astype(np.float64) for name in ("read_dir", "phase_dir", "slice_dir")], -1)
    if not columns.any():
        return None
    if float(np.abs(columns - columns[0]).max()) > 1e-4:
        raise InputError("the orientation changes between acquisitions", where=where, mend="split the file")
    if float(np.abs(columns[0].T @ columns[0] - np.eye(3)).max()) > 1e-3:
        raise InputError("readout, phase and slice directions are not orthogonal", where=where)
    # Single precision and the writer's rounding: the closest orthogonal matrix.
    u, _, vt = np.linalg.svd(columns[0])
    return lps_to_ras(u @ vt)


def _holds_acquisitions(dtype: np.dtype) -> bool:
    """Say whether a table has the fields of acquisitions, of their shapes."""

    def alike(found: np.dtype, known: np.dtype) -> bool:
        if known.names is None:
            return found.shape == known.shape and (found.base.kind == "f") == (known.base.kind == "f")
        names = found.names or ()
        return all(name in names and alike(found[name], known[name]) for name in known.names)

    names = dtype.names or ()
    whole = {"head", "traj", "data"} <= set(names) and alike(dtype["head"], np.dtype(acquisition_header_dtype))
    return whole and all(dtype[name].kind == "O" for name in ("traj", "data"))


def _flagged(flags: np.ndarray, flag: int) -> np.ndarray:
    return (flags.astype(np.uint64) >> np.uint64(flag - 1)) & np.uint64(1) != 0


def _samples(row: Any, where: str) -> np.ndarray:
    """Return the samples (coils, samples) of an acquisition, without those to discard."""
    head = row["head"]
    coils, count = int(head["active_channels"]), int(head["number_of_samples"])
    values = np.asarray(row["data"], np.float32)
    if values.size != 2 * coils * count:
        raise InputError(
            "an acquisition of the wrong length", where=where, expected=f"{coils} x {count}", got=values.size // 2
        )
    samples = values.view(np.complex64).reshape(coils, count)
    if not np.isfinite(values).all():
        raise InputError("samples that are not finite", where=where, mend="repair the measurement")
    return samples[:, int(head["discard_pre"]) : count - int(head["discard_post"])]


def _trajectory(row: Any, where: str) -> np.ndarray:
    head = row["head"]
    count, dimensions = int(head["number_of_samples"]), int(head["trajectory_dimensions"])
    values = np.asarray(row["traj"], np.float32)
    if values.size != count * dimensions:
        raise InputError(
            "a trajectory of the wrong length", where=where, expected=f"{count} x {dimensions}", got=values.size
        )
    if not np.isfinite(values).all():
        raise InputError("a trajectory that is not finite", where=where)
    return values.reshape(count, dimensions)[int(head["discard_pre"]) : count - int(head["discard_post"])]


def _whitening(rows: np.ndarray, heads: np.ndarray, encoding: Encoding, where: str) -> torch.Tensor:
    """Return the prewhitening matrix of the noise acquisitions, for the bandwidth of the imaging ones."""
    samples = np.concatenate([_samples(row, where) for row in rows], axis=1).astype(np.complex128)
    scanned, imaged = float(rows["head"]["sample_time_us"][0]), float(heads["sample_time_us"][0])
    # The variance grows with the bandwidth, which is the inverse of the dwell time.
    ratio = scanned / imaged if scanned > 0 and imaged > 0 else 1.0
    scale = (ratio / encoding.noise_bandwidth) ** 0.5 if encoding.noise_bandwidth > 0 else ratio**0.5
    try:
        return prewhitening_matrix(torch.from_numpy(samples * scale))
    except InputError as error:
        raise InputError(
            f"noise acquisitions of no use: {error.what}", where=where, expected=error.expected, got=error.got
        ) from error
