# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Type of an image: magnitude, phase, or parameter map."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from monai_diffrecon.errors import InputError

#: What a complex image is stored as.
MAGNITUDE, PHASE, REAL, IMAGINARY = "magnitude", "phase", "real part", "imaginary part"

# ImageType after its second value, in capitals, with blanks for what separates words. Siemens writes P, Philips
# PHASE MAP\P\FFE or R_IR\R\IR, Bruker PHASE_IMAGE.
_COMPONENTS = {
    PHASE: re.compile(r"P( \w+)?|PHASE ?(MAP|IMAGE|DIFF|DIFFERENCE)?|PHASEDIFF|VELOCITY( MAP)?"),
    REAL: re.compile(r"R( \w+)?|REAL ?(PART|IMAGE)?"),
    IMAGINARY: re.compile(r"I( \w+)?|IMAG(INARY)? ?(PART|IMAGE)?"),
}
_SAID = {"PHASE": PHASE, "REAL": REAL, "IMAGINARY": IMAGINARY, "MAGNITUDE": MAGNITUDE}
#: GE's own attribute (0043,102F).
GE_COMPONENTS = {0: MAGNITUDE, 1: PHASE, 2: REAL, 3: IMAGINARY}

#: Words of images that are computed: diffusion, perfusion, relaxation, statistics.
_MAPS = frozenset(
    {"ADC", "EADC", "FA", "RA", "MD", "TENSOR", "DIFFUSION ANISO", "EXPONENTIAL ADC", "ISOTROPIC ADC"}
    | {"CBF", "CBV", "RCBF", "RCBV", "RELCBF", "RELCBV", "RELMTT", "MTT", "TTP", "TMAX", "PBP", "GBP", "KTRANS", "KEP"}
    | {"IAUC", "PERFUSION MAP", "NERBF", "NEI", "T1 MAP", "T2 MAP", "T2* MAP", "T2 STAR MAP", "R1 MAP", "R2 MAP"}
    | {"R2* MAP", "R2 STAR MAP", "B0 MAP", "B1 MAP", "FIELD MAP", "QMAP", "FAT FRACTION", "FF", "SUBTRACTION", "SUB"}
    | {"STD DEVIATION", "STDDEV", "T TEST", "T MAP", "Z SCORE", "MIP", "MINIP", "PROJECTION IMAGE"}
)
#: Words that name a map where the image is derived; of an original one they name what it is weighted by.
_MAPS_IF_DERIVED = frozenset({"PERFUSION", "T1", "T2", "T2*", "T2 STAR", "R1", "R2", "R2*", "R2 STAR"})
_WORD = re.compile(r"[\s_\-/]+")


def component_of(image_type: Sequence[str], said: str = "") -> str:
    """Return which component of a complex image is stored.

    Args:
        image_type: values of ImageType, or of FrameType.
        said: ComplexImageComponent, or nothing.
    """
    if (known := _SAID.get(said.strip().upper(), MAGNITUDE)) != MAGNITUDE:
        return known
    words = _words(image_type)
    if words[:1] == ["M"]:
        return MAGNITUDE
    for name, pattern in _COMPONENTS.items():
        if any(pattern.fullmatch(word) for word in words):
            return name
    return MAGNITUDE


def maps_of(image_type: Sequence[str]) -> tuple[str, ...]:
    """Return the words of an ImageType by which the image is computed from others: ADC, FA, CBF and so on."""
    words = _words(image_type)
    derived = bool(image_type) and str(image_type[0]).strip().upper() == "DERIVED"
    known = _MAPS | (_MAPS_IF_DERIVED if derived else frozenset())
    return tuple(dict.fromkeys(word for word in words if word in known))


def check_component(components: Iterable[str], where: str) -> None:
    """Refuse images that are not magnitudes, which no network knows.

    Raises:
        InputError: some are a phase, a real or an imaginary part.
    """
    counts: dict[str, int] = {}
    total = 0
    for component in components:
        counts[component] = counts.get(component, 0) + 1
        total += 1
    other = {name: count for name, count in counts.items() if name != MAGNITUDE}
    if other:
        raise InputError(
            f"{' and '.join(other)} of a complex image instead of its magnitude",
            where=where,
            expected="magnitude images",
            got=", ".join(f"{count} of {total} images of the {name}" for name, count in other.items()),
            mend="choose the magnitude images, which the scanner stores as a separate series or volume",
        )


def map_notices(maps: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return a sentence about images that are computed, or none."""
    words = sorted({word for found in maps for word in found})
    if not words:
        return ()
    return (
        f"the images are computed from others ({', '.join(words)}), not scanned: the networks were trained on scans, "
        "and a thick slice of such values is not the mean of thin ones",
    )


def sidecar_type(content: Mapping[str, object]) -> tuple[list[str], str]:
    """Return ImageType and ComplexImageComponent of a BIDS sidecar."""
    values = content.get("ImageType")
    said = content.get("ComplexImageComponent")
    kinds = [str(v) for v in values] if isinstance(values, list) else []
    return kinds, said if isinstance(said, str) else ""


def _words(image_type: Sequence[str]) -> list[str]:
    return [_WORD.sub(" ", str(value).strip().upper()) for value in image_type[2:]]
