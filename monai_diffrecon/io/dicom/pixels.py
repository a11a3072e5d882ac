# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The stored values of DICOM files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.dicom.header import DEFLATED, open_dicom, quiet_pydicom

#: Compressed transfer syntaxes that itk's GDCM decodes: JPEG (8 and 12 bits, lossless), JPEG-LS, JPEG 2000.
_ITK = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91)}


def check_decodable(syntax: Any, where: str) -> None:
    """Refuse a compressed transfer syntax that cannot be decoded here.

    Raises:
        InputError: nothing installed decodes it.
    """
    if _by_pydicom(syntax) or syntax in _ITK:
        return
    raise InputError(
        "unsupported compression",
        where=where,
        expected="uncompressed, RLE, JPEG lossless, JPEG-LS or JPEG 2000",
        got=getattr(syntax, "name", str(syntax)),
        mend="pip install pylibjpeg pylibjpeg-openjpeg (HTJ2K), or decompress the series first (gdcmconv --raw)",
    )


def read_pixels(path: Path, syntax: Any) -> np.ndarray:
    """Return the stored values of a file, (rows, columns) or (frames, rows, columns), before rescaling.

    Raises:
        InputError: they cannot be decoded.
    """
    try:
        if not _by_pydicom(syntax):
            return _read_by_itk(path)
        from pydicom import dcmread
        from pydicom.pixels import pixel_array

        with open_dicom(path) as file, quiet_pydicom():
            said = dcmread(file, force=True, stop_before_pixels=True).file_meta.get("TransferSyntaxUID")
            file.seek(0)
            if said is not None and syntax != DEFLATED:
                return np.asarray(pixel_array(file))
            # pydicom reads frame by frame, at offsets that a deflated file does not have, and not without a syntax.
            dataset = dcmread(file, force=True)
            dataset.file_meta.TransferSyntaxUID = syntax
            return np.asarray(dataset.pixel_array)
    except Exception as error:  # decoders raise whatever damaged data provokes
        raise InputError(
            "the pixel data cannot be decoded",
            where=path.name,
            got=type(error).__name__,
            mend="check that the file is complete",
        ) from None


def _by_pydicom(syntax: Any) -> bool:
    from pydicom.pixels import get_decoder

    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:  # a syntax it does not know at all
        return False


def _read_by_itk(path: Path) -> np.ndarray:
    # Its modules one by one: asking the package itself for a class imports all of itk, which takes 16 s. They warn
    # from C code, which crashes where warnings are errors.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from itk.itkGDCMImageIOPython import itkGDCMImageIO
        from itk.itkImageFileReaderPython import itkImageFileReaderIF3
        from itk.itkPyBufferPython import itkPyBufferIF3

    io, reader = itkGDCMImageIO.New(), itkImageFileReaderIF3.New()
    reader.SetImageIO(io)
    reader.SetFileName(str(path))
    reader.Update()
    values = np.array(itkPyBufferIF3.GetArrayViewFromImage(reader.GetOutput()), dtype=np.float64)
    # GDCM rescales, of some kinds of images only: back to what is stored.
    stored = np.round((values - io.GetRescaleIntercept()) / io.GetRescaleSlope())
    return stored if len(stored) > 1 else stored[0]
