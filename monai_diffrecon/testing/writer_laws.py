# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What every writer of volumes must obey."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon import registry
from monai_diffrecon.errors import InputError
from monai_diffrecon.protocols import VolumeGeometry, VolumeOrigin, VolumeWriter

_SECRET = "Doe_John_19700101"
_ORIGIN = VolumeOrigin("case1", derivation="by the laws of a writer", entropy="laws")
#: What gives a written file its name in the end.
_RENAMES = ("os.replace", "os.rename", "pathlib.Path.replace", "pathlib.Path.rename")


def check_writer(
    writer: VolumeWriter,
    folder: Path,
    read: Callable[[Path], tuple[Tensor, VolumeGeometry]] | None = None,
    *,
    tolerance: float = 1e-3,
) -> None:
    """Check the laws.

    What is written is read back: every voxel within ``tolerance`` of the range at its place within 1e-3 mm, whether the
    volume is oblique, off centre, or not cubic. The files are those that it returns, and all are under the path; equal
    input gives equal files, and an older output is replaced. A volume of another shape, complex or not finite, a
    missing folder, and a disk that is full at the end are refused; nothing is left behind then, and an older output
    stays as it was. What it is given is left as it is.

    Args:
        writer: the writer.
        folder: an empty folder to write to.
        read: returns volume (1, X, Y, Z) and geometry in RAS+ order; None takes the installed reader that recognises
            what was written.
        tolerance: largest error of a voxel over the range of the volume.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    read = read or _read
    inner = folder / _SECRET
    for number, geometry in enumerate(_geometries()):
        place = inner / str(number)
        place.mkdir(parents=True)
        _check_round_trip(writer, place / f"volume{writer.suffix}", geometry, read, tolerance)
    _check_refusals(writer, inner / "0" / f"volume{writer.suffix}", _geometries()[0])


def _check_round_trip(
    writer: VolumeWriter,
    path: Path,
    geometry: VolumeGeometry,
    read: Callable[[Path], tuple[Tensor, VolumeGeometry]],
    tolerance: float,
) -> None:
    writer.check(geometry, "volume")
    before = _snapshot(path.parent)
    for seed in (1, 0):  # the second one replaces the first
        volume = _volume(geometry, seed)
        given = volume.clone()
        files = tuple(map(Path, writer.write(path, given, geometry, _ORIGIN)))
        assert torch.equal(given, volume), "the volume was changed"
    written = _snapshot(path.parent)
    assert files, "it returns no file"
    assert set(files) == {path.parent / name for name in written.keys() - before.keys()}, "files it does not return"
    assert all(f == path or path in f.parents for f in files), f"a file beside {path.name}"
    assert path.is_file() if writer.suffix else path.is_dir(), "suffix does not say whether it is a file or a folder"
    writer.write(path, volume, geometry, _ORIGIN)
    assert _snapshot(path.parent) == written, "equal input gives other files"
    found, lies = read(path)
    assert found.shape == volume.shape, f"read back as {tuple(found.shape)}"
    error = float((found - volume).abs().max() / (volume.max() - volume.min()))
    assert error <= tolerance, f"a voxel is wrong by {error:.2g} of the range"
    apart = np.abs(_corners(lies) - _corners(geometry)).max()
    assert apart <= 1e-3, f"a voxel is {apart:.2g} mm from its place"


def _check_refusals(writer: VolumeWriter, path: Path, geometry: VolumeGeometry) -> None:
    volume, before = _volume(geometry, 0), _snapshot(path.parent)
    wrong = {
        "a volume of another shape": volume[:, :-1],
        "a complex volume": volume + 0j,
        "a voxel that is not finite": torch.where(volume == volume.max(), torch.inf, volume),
    }
    for what, broken in wrong.items():
        _refuses(writer, path, broken, geometry, what)
        assert _snapshot(path.parent) == before, f"{what} leaves something behind"
    _refuses(writer, path.parent / "missing" / path.name, volume, geometry, "a missing folder")
    assert not (path.parent / "missing").exists(), "it makes the folder that was missing"
    with ExitStack() as stack:
        for name in _RENAMES:
            stack.enter_context(patch(name, side_effect=OSError(errno.ENOSPC, "No space left on device")))
        try:
            writer.write(path, _volume(geometry, 2), geometry, _ORIGIN)
        except Exception as error:
            said = str(error)
        else:
            raise AssertionError("not written in one step: it appears without a rename at the end")
    assert _SECRET not in said, f"the refusal names the folder: {said}"
    assert _snapshot(path.parent) == before, "a failure leaves something behind, or an older output is lost"


def _refuses(writer: VolumeWriter, path: Path, volume: Tensor, geometry: VolumeGeometry, what: str) -> None:
    try:
        writer.write(path, volume, geometry, _ORIGIN)
    except InputError as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__} instead of an InputError") from error
    else:
        raise AssertionError(f"{what} is written")
    assert _SECRET not in said, f"the refusal names the folder: {said}"
    assert "\n" not in said, f"the refusal is more than one line: {said}"


def _read(path: Path) -> tuple[Tensor, VolumeGeometry]:
    for info in registry.available("readers"):
        reader = registry.create("readers", f"{info.distribution}:{info.name}")
        if reader.recognises(path):
            measurement = reader.read(path)
            return measurement.data, measurement.geometry
    raise AssertionError(f"no installed reader recognises {path.name}: give check_writer a read function")


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _volume(geometry: VolumeGeometry, seed: int) -> Tensor:
    return 100.0 * torch.rand((1, *geometry.shape), generator=torch.Generator().manual_seed(seed)) - 20.0


def _corners(geometry: VolumeGeometry) -> np.ndarray:
    """Return where the corner voxels lie in mm, (3, 8)."""
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float).T
    corners[:3] *= np.array(geometry.shape)[:, None] - 1
    return (np.array(geometry.affine) @ corners)[:3]


def _geometries() -> tuple[VolumeGeometry, ...]:
    """Return volumes along the axes, off centre, and oblique ones."""
    axes = np.diag([1.0, 1.25, 3.0, 1.0])
    axes[:3, 3] = -91.5, 20.125, -333.3
    a, b = np.deg2rad([17.0, -8.0])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    oblique = axes.copy()
    oblique[:3, :3] = turn @ np.diag([0.7, 0.9, 2.1])
    return tuple(
        VolumeGeometry((7, 6, 5), tuple(np.linalg.norm(m[:3, :3], axis=0).tolist()), tuple(map(tuple, m.tolist())))
        for m in (axes, oblique)
    )
