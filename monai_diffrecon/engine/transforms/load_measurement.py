# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Transforms that read scans and volumes of any format with a reader."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_diffrecon.engine.transforms.resample_in_plane import note_preparation
from monai_diffrecon.errors import InputError
from monai_diffrecon.errors.options import check_flag, path_option
from monai_diffrecon.io.find_reader import AUTO, read_scan
from monai_diffrecon.io.measurement.metatensor import affine_of, to_tensor
from monai_diffrecon.io.measurement.tensor_image import image_of
from monai_diffrecon.io.straight import check_straight, corrected_tilt
from monai_diffrecon.privacy.file_names import anonymously

logger = logging.getLogger(__name__)


class LoadMeasurementd(MapTransform):
    """Reads each file or folder to a ``MetaTensor`` with its geometry, and its operator if it has one.

    A plain image is (1, X, Y, Z) in RAS+ order with its affine. File names and headers, which may
    identify a patient, are not kept. The name of the reader is stored under ``<key>_reader``. An error names the case
    (the value of ``case``) and the key. A tensor is taken for an image that was loaded elsewhere, (X, Y, Z) or
    (1, X, Y, Z), and is brought to that form; one that has it is left unchanged.

    Args:
        keys: keys of the paths or tensors.
        reader: ``auto`` tries each installed reader; or the name of one, or ``{"name": ..., **options}``.
        correct_tilt: resample a gantry-tilted image to a straight stack; otherwise it is refused.
        allow_missing_keys: ignore missing keys.
    """

    def __init__(
        self,
        keys: KeysCollection,
        reader: Any = AUTO,
        allow_missing_keys: bool = False,
        *,
        correct_tilt: bool = False,
    ) -> None:
        super().__init__(keys, check_flag(allow_missing_keys, "preprocessing#allow_missing_keys"))
        self.reader = reader
        self.correct_tilt = check_flag(correct_tilt, "correct_tilt")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read.

        Raises:
            InputError: neither a path nor a tensor.
            DiffReconError: as :func:`~monai_diffrecon.io.find_reader.read_scan`.
        """
        out, case = dict(data), data.get("case")
        for key in self.key_iterator(out):
            if isinstance(out[key], Tensor):
                image = image_of(out[key], str(key))
                if image is None:
                    continue
                measurement = image
                if not self.correct_tilt:
                    check_straight(measurement.geometry, str(key))
            elif not isinstance(out[key], str | Path):
                raise InputError(
                    "not a scan",
                    where=str(key),
                    expected="a path, or a tensor (X, Y, Z)",
                    got=type(out[key]).__name__,
                    mend="give an array as MetaTensor(array, affine=affine)",
                )
            else:
                path = path_option(out[key], str(key))
                read = partial(read_scan, path, self.reader, leaning=self.correct_tilt)
                out[f"{key}_reader"], measurement = anonymously(read, path, str(key), case)
            if self.correct_tilt:
                measurement, degrees = corrected_tilt(measurement, str(key))
                if degrees is not None:
                    note_preparation(out, key, {"correct_tilt": {"degrees": round(degrees, 3)}})
            out[key] = to_tensor(measurement)
        return out


class LoadVolumed(MapTransform):
    """Reads each file or folder to a ``MetaTensor`` (1, X, Y, Z) in RAS+ order with its affine, and nothing else.

    Unlike MONAI's ``LoadImaged`` it refuses anything but a volume, and keeps neither the file name nor the header,
    which may identify a patient. An error names the case (the value of ``case``) and the key; the reader's notices
    are logged.

    Args:
        keys: keys of the paths; any installed reader may read them.
        allow_missing_keys: ignore missing keys.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, check_flag(allow_missing_keys, "preprocessing#allow_missing_keys"))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read.

        Raises:
            InputError: no reader can read it, or it is a measurement instead of a volume.
        """
        out, case = dict(data), data.get("case")
        for key in self.key_iterator(out):
            path = path_option(out[key], str(key))
            _, m = anonymously(partial(read_scan, path), path, str(key), case)
            where = str(key) if case is None else f"case {case}: {key}"
            if m.operator is not None:
                raise InputError(
                    "a measurement instead of a volume",
                    where=where,
                    expected="an image, such as NIfTI or a DICOM series",
                    got=f"data of {m.operator['name']}",
                )
            for line in m.notices:
                logger.warning("%s: %s", where, line)
            out[key] = MetaTensor(m.data, affine=torch.as_tensor(affine_of(m.geometry)))
        return out
