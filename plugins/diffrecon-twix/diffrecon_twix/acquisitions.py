# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""From the lines of a Siemens file to acquisitions as those of an ISMRMRD file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ismrmrd.hdf5 import acquisition_header_dtype
from twixtools.geometry import quat_to_rotmat
from twixtools.mdb import Mdb

from diffrecon_mri.ismrmrd.acquisitions import Acquisitions
from diffrecon_mri.kspace_noise import prewhiten, prewhitening_matrix
from diffrecon_twix.protocol import Protocol
from diffrecon_twix.twix_file import TwixFile
from monai_diffrecon.errors import InputError

#: Lines that are neither image, nor calibration, nor noise; ``noname60`` are navigators.
_OTHER = ("RTFEEDBACK", "HPFEEDBACK", "REFPHASESTABSCAN", "PHASESTABSCAN", "PHASCOR", "RETRO_DUMMYSCAN", "noname60")
#: Counters of a line that tell images apart, by the name of the reader's option.
COUNTERS = {"echo": "Eco", "average": "Ave", "repetition": "Rep", "phase": "Phs", "set": "Set"}
#: All images of a counter, as one.
ALL = -1
#: No position (mm) is so large.
_FAR = 1e9


@dataclass(frozen=True)
class _Lines:
    """Lines of one purpose: their headers as those of ISMRMRD, and their samples."""

    heads: np.ndarray
    data: list[np.ndarray]


def read_acquisitions(file: TwixFile, protocol: Protocol, wanted: dict[str, int | None]) -> Acquisitions:
    """Return what a file holds of one image.

    Noise lines make the noise white. Their bandwidth is not that of the image, so its level stays to be estimated.

    Args:
        file: an open file.
        protocol: its protocol.
        wanted: the counter of each of :data:`COUNTERS`; None where all lines share one, or :data:`ALL`.

    Raises:
        InputError: damaged, several images of which none is chosen, or lines that do not fit together.
    """
    where = file.where
    noise, lines = [], []
    for line in file.lines():
        if line.is_flag_set("NOISEADJSCAN"):
            noise.append(line)
        elif not any(line.is_flag_set(flag) for flag in _OTHER):
            lines.append(line)
    both = [line.is_flag_set("PATREFANDIMASCAN") for line in lines]
    alone = [line.is_flag_set("PATREFSCAN") and not b for line, b in zip(lines, both, strict=True)]
    separate = any(alone) and not protocol.embedded
    images = _chosen([line for line, a in zip(lines, alone, strict=True) if not (a and separate)], wanted, where)
    reference = [line for line, a, b in zip(lines, alone, both, strict=True) if separate and (a or b)]
    for counter, value in wanted.items():
        value = _counter(images[0], counter) if value is None else value
        # Calibration lines of this image, or else those that it shares with others.
        reference = [line for line in reference if _counter(line, counter) == value] or reference
    if any(line.is_flag_set("REFLECT") for line in images + reference):
        raise InputError("readouts in both directions (EPI), which is not supported", where=where)
    if len({line.is_flag_set("RAWDATACORRECTION") for line in images}) > 1:
        raise InputError("lines to be scaled for each coil beside others, which is not supported", where=where)
    if max(int(line.mdh.Counter.Sli) for line in images + reference) >= protocol.slices:
        raise InputError("more slices than the protocol has", where=where, expected=protocol.slices)
    coils = sorted({int(line.mdh.UsedChannels) for line in images + reference})
    if len(coils) != 1:
        raise InputError("the number of coils changes between lines", where=where, got=", ".join(map(str, coils)))
    centre = {(int(line.mdh.CenterLin), int(line.mdh.CenterPar)) for line in images}
    if len(centre) != 1:
        raise InputError("the centre of k-space changes between lines", where=where, expected="one line")
    white = _whitening([line for line in noise if int(line.mdh.UsedChannels) == coils[0]], where)
    imaged, calibration = (_converted(part, protocol.volumetric, white, where) for part in (images, reference))
    steps = (imaged.heads["idx"][f"kspace_encode_step_{i}"].astype(int) for i in (1, 2))
    first, second = (range(int(step.min()), int(step.max()) + 1) for step in steps)
    return Acquisitions(
        encoding=protocol.encoding(first, second, centre.pop()),
        heads=imaged.heads,
        data=imaged.data,
        trajectories=[],
        calibration_heads=calibration.heads,
        calibration=calibration.data,
        noise_std=None,
    )


def _chosen(lines: list[Mdb], wanted: dict[str, int | None], where: str) -> list[Mdb]:
    """Return the lines of one image."""
    for counter, value in wanted.items():
        found = sorted({_counter(line, counter) for line in lines})
        said = f"{counter} {', '.join(map(str, found[:16]))}"
        if value is None and len(found) > 1:
            raise InputError(
                f"several images: {len(found)} of the counter {counter}",
                where=where,
                expected="one image",
                got=said,
                mend=f"choose one with the reader's option {counter}" + (", or all: mean" * (counter == "average")),
            )
        if value not in (None, *found, ALL):
            raise InputError("no such image", where=where, expected=said, got=f"{counter} {value}")
        if value not in (None, ALL):
            lines = [line for line in lines if _counter(line, counter) == value]
    if not lines:
        raise InputError("no line of an image", where=where)
    return lines


def _counter(line: Mdb, name: str) -> int:
    return int(getattr(line.mdh.Counter, COUNTERS[name]))


def directions(quaternion: np.ndarray, volumetric: bool, where: str) -> np.ndarray:
    """Return unit columns (3, 3) in which the indices of an image grow: readout, phase and slice, in LPS.

    The quaternion (w, x, y, z) turns phase encoding, readout and slices into the patient's system. It is meant for
    images by a forward transform of k-space, as the scanner makes them. Here images are made by the inverse one, so
    the Fourier-encoded axes run the other way, as ``twixtools.geometry`` has it. The order of 2D slices stays.

    Raises:
        InputError: the quaternion is no rotation.
    """
    q = np.asarray(quaternion, dtype=np.float64)
    norm = float(np.linalg.norm(q))
    if not abs(norm - 1.0) < 1e-3:
        raise InputError("a line's orientation is no rotation", where=where, expected="a quaternion of length 1")
    phase, readout, slices = quat_to_rotmat(*(q / norm)).T
    return np.stack([-readout, -phase, -slices if volumetric else slices], axis=1)


def _converted(lines: list[Mdb], volumetric: bool, white: torch.Tensor | None, where: str) -> _Lines:
    """Return the lines as those of ISMRMRD, of which only the fields that are read are filled."""
    heads, data = np.zeros(len(lines), acquisition_header_dtype), []
    known: dict[bytes, np.ndarray] = {}
    for head, line in zip(heads, lines, strict=True):
        mdh = line.mdh
        position = [float(getattr(mdh.SliceData.SlicePos, name)) for name in ("Sag", "Cor", "Tra")]
        if not np.abs(position).max() < _FAR:
            raise InputError("the position of a line is no number of a scan", where=where)
        turned = np.array(mdh.SliceData.Quaternion)
        if turned.tobytes() not in known:
            known[turned.tobytes()] = directions(turned, volumetric, where)
        columns = known[turned.tobytes()].T
        head["position"] = position
        for name, column in zip(("read_dir", "phase_dir", "slice_dir"), columns, strict=True):
            head[name] = column
        head["center_sample"], head["discard_pre"] = mdh.CenterCol, mdh.CutOff.Pre
        head["idx"]["kspace_encode_step_1"], head["idx"]["kspace_encode_step_2"] = mdh.Counter.Lin, mdh.Counter.Par
        head["idx"]["slice"] = mdh.Counter.Sli
        samples = _samples(line, where)
        data.append(samples if white is None else prewhiten(torch.from_numpy(samples), white).numpy())
    return _Lines(heads, data)


def _samples(line: Mdb, where: str) -> np.ndarray:
    """Return the samples (coils, samples) of a line, without those to discard."""
    samples = np.array(line.data)
    if samples.ndim != 2 or not np.isfinite(samples).all():
        raise InputError("samples that are not finite", where=where, mend="repair the measurement")
    kept = samples[:, int(line.mdh.CutOff.Pre) : samples.shape[1] - int(line.mdh.CutOff.Post)]
    if kept.size == 0:
        raise InputError("a line without samples", where=where)
    return kept


def _whitening(lines: list[Mdb], where: str) -> torch.Tensor | None:
    """Return the prewhitening matrix of the noise lines, or None without them."""
    if not lines:
        return None
    samples = np.concatenate([_samples(line, where) for line in lines], axis=1).astype(np.complex128)
    try:
        return prewhitening_matrix(torch.from_numpy(samples))
    except InputError as error:
        raise InputError(
            f"noise lines of no use: {error.what}", where=where, expected=error.expected, got=error.got
        ) from error
