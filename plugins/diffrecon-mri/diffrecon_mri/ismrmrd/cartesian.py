# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cartesian acquisitions of an ISMRMRD file in one array."""

from __future__ import annotations

import math

import numpy as np
import torch

from diffrecon_mri.acquired import Acquired
from diffrecon_mri.encoded_grid import same_of_all, with_empty_slices
from diffrecon_mri.ismrmrd.acquisitions import Acquisitions, directions_ras
from diffrecon_mri.ismrmrd.header import Limits, check_amount
from diffrecon_mri.orientation import UNKNOWN_ORIENTATION, lps_to_ras
from monai_diffrecon.errors import InputError


def assemble(acquisitions: Acquisitions, *, allow_missing: bool, where: str) -> Acquired:
    """Return the k-space of 2D slices or of a 3D volume, as encoded.

    Samples measured more than once are averaged. Phase and slice oversampling stay, since lines may be missing.

    Args:
        acquisitions: what the file holds.
        allow_missing: take lines that are missing without an acceleration in the header as left out on purpose.
        where: name of the file, for messages.

    Raises:
        InputError: lines or slices are missing, or do not fit the header.
    """
    a, e = acquisitions, acquisitions.encoding
    volumetric = e.encoded.matrix[2] > 1
    positions, slice_of = slice_positions(a.heads, volumetric=volumetric, where=where)
    shape = (e.encoded.matrix[0], e.encoded.matrix[1], e.encoded.matrix[2] if volumetric else len(positions))
    check_amount(a.data[0].shape[0] * math.prod(shape), sum(d.size for d in a.data), where)
    kept = kept_readout(a, where)
    _check_oversampling(a, kept, where)
    kspace, found, said = _gridded(a, a.heads, a.data, shape, slice_of, volumetric=volumetric, where=where)
    counts, notices = (found, ()) if volumetric else with_empty_slices(found, said, where)
    _check_complete(a, said, volumetric=volumetric, allow_missing=allow_missing, where=where)
    calibration = calibrated = None
    if a.calibration:
        calibration, calibrated, _ = _gridded(
            a, a.calibration_heads, a.calibration, shape, slice_of, volumetric=volumetric, where=where
        )
    spacing = (
        e.encoded.fov[0] / shape[0],
        e.encoded.fov[1] / shape[1],
        e.encoded.fov[2] / e.encoded.matrix[2],
    )
    affine, located = stack_affine(
        a.heads, positions, (kept, shape[1], shape[2]), spacing, volumetric=volumetric, where=where
    )
    return Acquired(
        kspace=kspace,
        counts=counts if volumetric else same_of_all(counts),
        affine=affine,
        voxels=kept,
        located=located,
        volumetric=volumetric,
        noise_std=a.noise_std or 0.0,
        calibration=calibration,
        calibrated=calibrated,
        notices=(notices if located else (UNKNOWN_ORIENTATION, *notices)),
    )


def kept_readout(acquisitions: Acquisitions, where: str) -> int:
    """Return the readout samples that remain without oversampling, at the resolution that was measured."""
    e = acquisitions.encoding
    kept = round(e.encoded.matrix[0] * e.recon.fov[0] / e.encoded.fov[0])
    if not 1 <= kept <= e.encoded.matrix[0]:
        raise InputError("the reconstructed field of view is wider than the encoded one", where=where)
    return kept


def _check_oversampling(acquisitions: Acquisitions, kept: int, where: str) -> None:
    """Refuse readouts from which oversampling was removed while the header still has it.

    They would be taken for readouts without their outer parts, of half the resolution.
    Neither a partial Fourier acquisition nor an asymmetric echo has its centre in the middle.
    """
    a, encoded = acquisitions, acquisitions.encoding.encoded.matrix[0]
    centres = a.heads["center_sample"].astype(int) - a.heads["discard_pre"].astype(int)
    if kept < encoded and {d.shape[1] for d in a.data} == {kept} and (centres == kept // 2).all():
        raise InputError(
            "readouts without the oversampling that the header declares",
            where=where,
            expected=f"{encoded} samples, as in encodedSpace",
            got=kept,
            mend="give encodedSpace the matrixSize and fieldOfView_mm along x of reconSpace",
        )


def slice_positions(heads: np.ndarray, *, volumetric: bool, where: str) -> tuple[np.ndarray, dict[int, int]]:
    """Return the centres of the slices in order along the slice direction, and counter -> index in that order.

    Raises:
        InputError: a slice has two positions.
    """
    counters = np.zeros(len(heads), int) if volumetric else heads["idx"]["slice"].astype(int)
    found: dict[int, np.ndarray] = {}
    for counter, position in zip(counters, heads["position"].astype(np.float64), strict=True):
        if float(np.abs(found.setdefault(int(counter), position) - position).max()) > 1e-2:
            raise InputError(f"the position of slice {counter} changes between acquisitions", where=where)
    normal = heads["slice_dir"][0].astype(np.float64)
    ordered = sorted(found, key=lambda counter: (round(float(found[counter] @ normal), 3), counter))
    return np.stack([found[c] for c in ordered]), {counter: i for i, counter in enumerate(ordered)}


def stack_affine(
    heads: np.ndarray,
    positions: np.ndarray,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    *,
    volumetric: bool,
    where: str,
) -> tuple[np.ndarray, bool]:
    """Return the affine (readout, phase, slice) in RAS+, and whether the file says where the volume lies.

    ``position`` is the centre of the encoded field of view: the voxel of index n // 2 along Fourier-encoded axes.

    Raises:
        InputError: slices that are no regular stack.
    """
    directions = directions_ras(heads, where)
    step = spacing[2]
    if not volumetric and len(positions) > 1 and directions is not None:
        steps = np.diff(lps_to_ras(positions.T), axis=1)
        along = directions[:, 2] @ steps
        stray = np.abs(steps - np.outer(directions[:, 2], along)).max()
        step = float(along.mean())
        if step <= 1e-3 or float(np.abs(along - step).max()) > max(0.01 * step, 0.01) or stray > 0.01 * max(step, 1.0):
            raise InputError(
                "the slices are no regular stack", where=where, expected="parallel slices at equal distances"
            )
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if directions is None else directions) * np.array([spacing[0], spacing[1], step])
    centre = np.array([shape[0] // 2, shape[1] // 2, shape[2] // 2 if volumetric else 0])
    affine[:3, 3] = lps_to_ras(positions[0]) - affine[:3, :3] @ centre
    return affine, directions is not None


def _gridded(
    a: Acquisitions,
    heads: np.ndarray,
    data: list[np.ndarray],
    shape: tuple[int, int, int],
    slice_of: dict[int, int],
    *,
    volumetric: bool,
    where: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the mean k-space (coils, n0, n1, n2), and how often each entry was measured, and stored (n0, n1, n2).

    A sample that is exactly 0 in all coils is stored, but was not measured.
    """
    e, n0 = a.encoding, shape[0]
    sums = np.zeros((data[0].shape[0], *shape), np.complex64)
    counts, said = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for head, samples in zip(heads, data, strict=True):
        line = _line(int(head["idx"]["kspace_encode_step_1"]), e.step1, shape[1], where)
        third = int(head["idx"]["kspace_encode_step_2"]) if volumetric else int(head["idx"]["slice"])
        third = _line(third, e.step2, shape[2], where) if volumetric else slice_of.get(third, -1)
        if third < 0:
            raise InputError("calibration of a slice that was not imaged", where=where)
        count = samples.shape[1]
        centre = int(head["center_sample"]) - int(head["discard_pre"])
        if 0 < count < n0 and not 0 <= centre < count:
            raise InputError(
                "a partial readout without its centre sample",
                where=where,
                expected=f"center_sample of {count} samples",
                got=centre,
            )
        start = 0 if count == n0 else n0 // 2 - centre
        if start < 0 or start + count > n0:
            raise InputError(
                "a readout outside the encoded space",
                where=where,
                expected=f"within 0 and {n0}",
                got=f"{start} to {start + count}",
            )
        sums[:, start : start + count, line, third] += samples
        counts[start : start + count, line, third] += (samples != 0).any(0)
        said[start : start + count, line, third] += 1
    return torch.from_numpy(sums / np.maximum(counts, 1)), torch.from_numpy(counts), torch.from_numpy(said)


def _line(counter: int, limits: Limits | None, n: int, where: str) -> int:
    index = counter if limits is None else counter - limits.center + n // 2
    if not 0 <= index < n:
        raise InputError("a line outside the encoded space", where=where, expected=f"0 to {n - 1}", got=index)
    return index


def _check_complete(
    a: Acquisitions, counts: torch.Tensor, *, volumetric: bool, allow_missing: bool, where: str
) -> None:
    """Check that no line and no slice is missing that the header does not say was left out."""
    e = a.encoding
    lines = counts.amax(0) > 0
    if not volumetric:
        if e.slices is not None and lines.shape[1] < e.slices.maximum - e.slices.minimum + 1:
            raise InputError(
                "missing slices", where=where, expected=e.slices.maximum - e.slices.minimum + 1, got=lines.shape[1]
            )
        if not bool((lines == lines[:, :1]).all()):
            raise InputError(
                "missing encoding lines: the slices were not measured alike", where=where, expected="one mask for all"
            )
    if allow_missing or max(e.acceleration) > 1.0:
        return
    first = _expected(e.step1, lines.shape[0])
    second = _expected(e.step2, lines.shape[1]) if volumetric else slice(0, lines.shape[1])
    missing = int((~lines[first, second]).sum())
    if missing:
        raise InputError(
            f"missing encoding lines: {missing} of {lines[first, second].numel()}",
            where=where,
            expected="all that the header announces, which has no acceleration",
            mend="if they were left out on purpose, use the reader's option allow_missing: true",
        )


def _expected(limits: Limits | None, n: int) -> slice:
    if limits is None or limits.maximum == 0:
        return slice(0, n)
    shift = n // 2 - limits.center
    return slice(max(limits.minimum + shift, 0), min(limits.maximum + shift + 1, n))
