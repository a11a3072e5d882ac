# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The scans of a cohort: read, hashed and classified."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.cohort.methods.prepared_method import digest
from monai_diffrecon.evaluation.cohort.spec import CohortCase
from monai_diffrecon.io.find_reader import AUTO, read_scan
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.numerics.hashing import sha256_tensor
from monai_diffrecon.privacy.file_names import anonymously, hide_names
from monai_diffrecon.protocols import Measurement


@dataclass(frozen=True)
class CaseHashes:
    """Hashes of a case's files.

    Attributes:
        image: of the scan.
        reference: of the truth, or None.
        mask: of the mask, or None.
        measured: the scan is a measurement with its own operator, so nothing is simulated.
    """

    image: str
    reference: str | None
    mask: str | None
    measured: bool = False


def check_case(case: CohortCase, reader: Any = AUTO, *, correct_tilt: bool = False) -> CaseHashes:
    """Read all files of a case once and hash them.

    Args:
        case: the case.
        reader: ``auto``, or the reader of the scan.
        correct_tilt: resample a gantry-tilted scan to a straight stack.

    Raises:
        InputError: a file cannot be read, or the truth or the mask is not an image.
        IntegrityError: a file was changed.
        PluginError: no such reader, or the reader fails.
    """
    scan = _read(case, case.image, "image", reader, leaning=correct_tilt)
    hashes = CaseHashes(
        image=_hash(scan),
        reference=None if case.reference is None else _hash(_image(case, case.reference, "reference")),
        mask=None if case.mask is None else _hash(_image(case, case.mask, "mask")),
        measured=scan.operator is not None,
    )
    if case.mask is not None and not bool((read_mask(case.mask) != 0).any()):
        raise InputError("an empty mask", where=f"case {case.name}: mask", mend="leave it out")
    return hashes


def read_mask(path: Path) -> Tensor:
    """Return a mask (1, X, Y, Z) as it is stored, a ``MetaTensor`` that says where it lies."""
    mask = read_scan(path)[1]
    return MetaTensor(mask.data, affine=torch.as_tensor(affine_of(mask.geometry)))


def cohort_digest(hashes: list[CaseHashes]) -> str:
    """Return one hash over the cases, independent of their order."""
    return digest(sorted([h.image, h.reference or "", h.mask or ""] for h in hashes))


def anonymous(error: BaseException, case: CohortCase) -> str:
    """Return an error's text without the names of the case's files."""
    paths = [path for path in (case.image, case.reference, case.mask) if path is not None]
    return hide_names(str(error), paths, case.name)


def _read(case: CohortCase, path: Path, what: str, reader: Any = AUTO, *, leaning: bool = False) -> Measurement:
    return anonymously(partial(read_scan, path, reader, leaning=leaning), path, what, case.name)[1]


def _image(case: CohortCase, path: Path, what: str) -> Measurement:
    measured = _read(case, path, what)
    if measured.operator is not None:
        raise InputError("a measurement instead of a volume", where=f"case {case.name}: {what}")
    return measured


def _hash(measured: Measurement) -> str:
    return measured.source_sha256 or sha256_tensor(measured.data)
