# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The sizes in an ISMRMRD header. No other element is read, so none that names the subject, the study or a date."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from xml.etree import ElementTree

from monai_diffrecon.errors import InputError

#: Most samples along an axis, and the widest field of view (mm).
_MOST_SAMPLES, _WIDEST = 65535, 1e5
#: So many more entries than samples an encoded space may have, and so many in any case.
_MOST_ACCELERATION, _FEW_ENTRIES = 256, 1 << 20
#: Words of the format.
_TRAJECTORIES = ("cartesian", "epi", "radial", "goldenangle", "spiral", "other")

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Space:
    """An encoded or reconstructed space.

    Attributes:
        matrix: samples along readout, first and second phase encoding.
        fov: field of view along the same axes, mm.
    """

    matrix: tuple[int, int, int]
    fov: tuple[float, float, float]


@dataclass(frozen=True)
class Limits:
    """Range of an encoding counter; ``center`` is the line through the centre of k-space."""

    minimum: int
    maximum: int
    center: int


@dataclass(frozen=True)
class Encoding:
    """One encoding of a header.

    Attributes:
        encoded: what was encoded, with readout oversampling.
        recon: what the scanner would have shown.
        trajectory: ``cartesian``, ``radial``, ``spiral``, ...
        step1: lines of the first phase-encoded axis, or None.
        step2: lines of the second phase-encoded axis, or None.
        slices: slices, or None.
        acceleration: of both phase-encoded axes.
        embedded: calibration lines belong to the image, too.
        noise_bandwidth: receiver's noise bandwidth relative to that of the samples.
    """

    encoded: Space
    recon: Space
    trajectory: str
    step1: Limits | None
    step2: Limits | None
    slices: Limits | None
    acceleration: tuple[float, float]
    embedded: bool
    noise_bandwidth: float
    vendor: str = ""


def parse_header(xml: str | bytes, where: str) -> Encoding:
    """Return the first encoding of an ISMRMRD XML header.

    Args:
        xml: the document.
        where: name of the file, for messages.

    Raises:
        InputError: not such a document, or an element is missing or no number.
    """
    text = xml.decode("utf-8", "replace") if isinstance(xml, bytes) else xml
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError("an XML header that declares entities", where=where)
    try:
        root = ElementTree.fromstring(text)  # whatever encoding it declares: this is Unicode
    except ElementTree.ParseError as error:
        raise InputError("the XML header is damaged", where=where) from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    encoding = root.find("encoding")
    if encoding is None:
        raise InputError("no encoding in the XML header", where=where)
    acceleration = encoding.find("parallelImaging/accelerationFactor")
    factors = (1.0, 1.0)
    if acceleration is not None:
        first = _number(acceleration, "kspace_encoding_step_1", float, where)
        factors = (first, _number(acceleration, "kspace_encoding_step_2", float, where))
    trajectory = (encoding.findtext("trajectory") or "").strip().lower()
    if trajectory not in _TRAJECTORIES:
        raise InputError("no trajectory in the XML header", where=where, expected=" or ".join(_TRAJECTORIES))
    bandwidth = root.findtext("acquisitionSystemInformation/relativeReceiverNoiseBandwidth")
    vendor = root.findtext("acquisitionSystemInformation/systemVendor")
    return Encoding(
        encoded=_space(encoding, "encodedSpace", where),
        recon=_space(encoding, "reconSpace", where),
        trajectory=trajectory,
        step1=_limits(encoding, "kspace_encoding_step_1", where),
        step2=_limits(encoding, "kspace_encoding_step_2", where),
        slices=_limits(encoding, "slice", where),
        acceleration=factors,
        embedded=(encoding.findtext("parallelImaging/calibrationMode") or "").strip() == "embedded",
        noise_bandwidth=1.0
        if bandwidth is None
        else _parsed(bandwidth, float, "relativeReceiverNoiseBandwidth", where),
        vendor=(vendor or "").strip().lower(),
    )


def check_amount(entries: int, samples: int, where: str) -> None:
    """Refuse an array that is far too large for what was measured of it, before it is made.

    Raises:
        InputError: it is.
    """
    limit = max(_MOST_ACCELERATION * samples, _FEW_ENTRIES)
    if entries > limit:
        raise InputError(
            "the header declares far more than was measured",
            where=where,
            expected=f"at most {limit} entries for {samples} samples",
            got=entries,
        )


def _space(encoding: ElementTree.Element, name: str, where: str) -> Space:
    element = encoding.find(name)
    if element is None:
        raise InputError(f"no {name} in the XML header", where=where)
    matrix = [_number(element, f"matrixSize/{axis}", int, where) for axis in "xyz"]
    fov = [_number(element, f"fieldOfView_mm/{axis}", float, where) for axis in "xyz"]
    if min(matrix) < 1 or min(fov) < 1.0 / _WIDEST:
        raise InputError(f"{name} is empty", where=where, got=f"{matrix} samples, {fov} mm")
    if max(matrix) > _MOST_SAMPLES or max(fov) > _WIDEST:
        raise InputError(f"{name} is too large for a scan", where=where, got=f"{matrix} samples, {fov} mm")
    return Space((matrix[0], matrix[1], matrix[2]), (fov[0], fov[1], fov[2]))


def _limits(encoding: ElementTree.Element, name: str, where: str) -> Limits | None:
    element = encoding.find(f"encodingLimits/{name}")
    if element is None:
        return None
    return Limits(*(_number(element, part, int, where) for part in ("minimum", "maximum", "center")))


def _number(element: ElementTree.Element, name: str, kind: Callable[[str], N], where: str) -> N:
    return _parsed(element.findtext(name) or "", kind, name, where)


def _parsed(text: str, kind: Callable[[str], N], name: str, where: str) -> N:
    try:
        value = kind(text.strip())
        finite = math.isfinite(value)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{name.replace('/', '.')} in the XML header is no number", where=where) from error
    if not finite:
        raise InputError(f"{name.replace('/', '.')} in the XML header is not finite", where=where)
    return value
