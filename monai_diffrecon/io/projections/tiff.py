# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Stacks of TIFF files: one image a file, or many in one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.hdf5_parts import LARGEST_RATIO


class TiffStack:
    """One image a file, which is read when it is indexed.

    Args:
        files: the files, in their order.
        shape: rows and columns of each.
        dtype: of the first; the others may have another one.
    """

    def __init__(self, files: list[Path], shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.files, self.shape, self.dtype = files, (len(files), *shape), dtype
        self.ndim = len(self.shape)

    def __getitem__(self, index: tuple[Any, slice]) -> np.ndarray:
        """Return images (views, rows, columns)."""
        views, rows = index
        files = self.files[views] if isinstance(views, slice) else [self.files[i] for i in views]
        return np.stack([_image(file, self.shape[1:])[rows] for file in files])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:, :], dtype=dtype)


def open_tiffs(files: list[Path]) -> np.ndarray | TiffStack:
    """Return what TIFF files hold: the array of a single one, or a stack of single images.

    Raises:
        InputError: damaged, no grey values, or compressed in a way that is not read.
    """
    first = _image(files[0], None)
    if len(files) == 1:
        return first
    if first.ndim != 2:
        expected = "one image in each of several files"
        raise InputError("of the wrong shape", where=files[0].name, expected=expected, got=first.shape)
    return TiffStack(files, first.shape, first.dtype)


def _image(path: Path, shape: tuple[int, ...] | None) -> np.ndarray:
    """Return the grey values of a file, checked before they are allocated."""
    import tifffile  # costs the start of the program too much

    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            declared, size = math.prod(series.shape) * series.dtype.itemsize, path.stat().st_size
            if series.dtype.kind not in "uif" or 0 in series.shape or declared > LARGEST_RATIO * size:
                raise ValueError(f"{series.dtype} {series.shape} in {size} bytes")
            image = np.asarray(series.asarray(maxworkers=1))
    except Exception as error:  # whatever tifffile and its codecs say of a damaged file
        text = " ".join(str(error).replace(str(path), path.name).split())[:200]
        mend = "write grey values without compression, or compressed by deflate"
        raise InputError(
            "cannot be read as TIFF", where=path.name, got=text or type(error).__name__, mend=mend
        ) from None
    if shape is not None and image.shape != shape:
        raise InputError("of another shape than the first", where=path.name, expected=shape, got=image.shape)
    return image
