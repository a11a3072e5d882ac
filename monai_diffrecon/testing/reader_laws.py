# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What every reader of scans must obey."""

from __future__ import annotations

from pathlib import Path

import torch

from monai_diffrecon import registry
from monai_diffrecon.errors import DiffReconError, InputError
from monai_diffrecon.protocols import Measurement, MeasurementReader

_SECRET = "Doe_John_19700101"
#: Name and content of files that are no scans, and look like some.
_GARBAGE = {
    "empty": b"",
    "random.bin": bytes((7 * i * i + 3 * i) % 251 for i in range(4096)),
    "text.nii": b"not a scan",
    "short.nii.gz": b"\x1f\x8b\x08",
    "short.h5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "short.dcm": bytes(128) + b"DICM",
}


def check_reader(reader: MeasurementReader, folder: Path, example: Path | None = None) -> None:
    """Check the laws.

    ``recognises`` says yes or no and never raises: of nothing, of an empty folder, of files that are no scans. What is
    no scan is refused by ``read`` with an InputError in one line, which names the file but not its folder. An example
    is recognised, and read to finite numbers that its operator could have measured, or to an image (1, X, Y, Z).

    Args:
        reader: the reader.
        folder: an empty folder to write to.
        example: a valid scan of its kind; None checks the refusals only.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    inner = folder / _SECRET
    inner.mkdir()
    (inner / "folder").mkdir()
    for name, content in _GARBAGE.items():
        (inner / name).write_bytes(content)
    for path in (*sorted(inner.iterdir()), inner / "missing", inner / "missing.nii", inner / "missing.h5"):
        try:
            found = reader.recognises(path)
        except Exception as error:
            raise AssertionError(f"recognises raises {type(error).__name__} for {path.name}: {error}") from error
        assert isinstance(found, bool), f"recognises returns {found!r}"
        if path.name in ("empty", "folder", "missing", "random.bin"):
            assert not found, f"{path.name} is recognised"
        _check_refusal(reader, path)
    if example is not None:
        assert reader.recognises(example) is True, "the example is not recognised"
        _check_measurement(reader.read(example))


def _check_refusal(reader: MeasurementReader, path: Path) -> None:
    try:
        reader.read(path)
    except InputError as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(f"read raises {type(error).__name__} for {path.name}: {error}") from error
    else:
        raise AssertionError(f"read takes {path.name}")
    assert path.name in said, f"the refusal does not name {path.name}: {said}"
    assert _SECRET not in said, f"the refusal names the folder: {said}"
    assert "\n" not in said, f"the refusal is more than one line: {said}"


def _check_measurement(m: Measurement) -> None:
    data = torch.view_as_real(m.data) if m.data.is_complex() else m.data
    assert m.data.dtype in (torch.float32, torch.complex64), f"the data are {m.data.dtype}"
    assert bool(torch.isfinite(data).all()), "the data are not finite"
    assert min(m.geometry.shape) > 0, f"the volume is {m.geometry.shape}"
    assert min(m.geometry.spacing) > 0, f"voxels are {m.geometry.spacing} mm"
    assert m.noise_std >= 0, f"noise_std is {m.noise_std}"
    if m.weights is not None:
        assert m.weights.shape == m.data.shape, f"weights {tuple(m.weights.shape)} for data {tuple(m.data.shape)}"
        assert bool((m.weights >= 0).all()), "a weight is negative"
    if m.operator is None:
        expected, is_complex = (1, *m.geometry.shape), m.data.is_complex()
    else:
        try:
            operator = registry.build("operators", m.operator, geometry=m.geometry)
        except DiffReconError as error:
            raise AssertionError(f"its operator cannot be built: {error}") from error
        expected, is_complex = operator.measurement_shape, operator.complex_measurement
    assert tuple(m.data.shape) == expected, f"the data are {tuple(m.data.shape)}, expected {expected}"
    assert m.data.is_complex() == is_complex, "real data for a complex measurement, or the other way round"
