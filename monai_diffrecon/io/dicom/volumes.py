# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The volumes of one DICOM series: echoes, time points, b-values, components."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.dicom.header import MARKS
from monai_diffrecon.io.dicom.kinds import MAGNITUDE
from monai_diffrecon.io.dicom.slices import DicomSlice

_LISTED = 12
#: What a mark is called in a list, and its unit.
_WORDS = {
    "EchoTime": ("echo time", " ms"),
    "InversionTime": ("inversion time", " ms"),
    "DiffusionBValue": ("b-value", " s/mm2"),
    "NominalPercentageOfCardiacPhase": ("cardiac phase", " %"),
    "TemporalPositionIdentifier": ("time point", ""),
    "AcquisitionNumber": ("acquisition", ""),
    "TriggerTime": ("trigger time", " ms"),
}
#: Words of ImageType that name a contrast: of a Dixon series, say.
_CONTRASTS = {"W": "water", "WATER": "water", "F": "fat", "FAT": "fat", "IP": "in phase", "IN_PHASE": "in phase"}
_CONTRASTS |= {"OP": "out of phase", "OUT_PHASE": "out of phase", "OPP_PHASE": "out of phase"}


def choose_volume(
    slices: Sequence[DicomSlice], where: str, echo: int | None = None, volume: int | None = None
) -> list[DicomSlice]:
    """Return the slices of one volume of a series.

    Volumes are told apart by what differs at one position, and counted in this order: component, echo, inversion
    time, b-value, cardiac phase, time point, acquisition, trigger time, number of the image.

    Args:
        slices: the slices of one series, in any order.
        where: name of the series for messages.
        echo: number of the echo, as in the header (EchoNumbers), or else by the echo time, from 1; None for any.
        volume: number of the volume among those of the echo, from 0; None for the only one.

    Raises:
        InputError: several volumes and no choice, or no such echo or volume.
    """
    slices = _of_echo(list(slices), echo, where) if echo is not None else list(slices)
    volumes = _volumes(slices)
    if volume is not None:
        if volume >= len(volumes):
            raise InputError(
                "no such volume", where=where, expected=f"volume 0 to {len(volumes) - 1}", got=f"volume {volume}"
            )
        return volumes[volume]
    if len(volumes) == 1:
        return volumes[0]
    listed = [f"{i}: {text}" for i, text in enumerate(_described(volumes))]
    numbers = _echo_numbers(slices)
    echoes = "" if len(numbers) < 2 else f"{len(numbers)} echoes ({_listed_echoes(numbers)}); "
    raise InputError(
        "several volumes in one series",
        where=where,
        expected="one",
        got=f"{len(volumes)} volumes of {len(volumes[0])} slices: {echoes}"
        + "; ".join(listed[:_LISTED])
        + ("; ..." if len(listed) > _LISTED else ""),
        mend="""choose one, --reader '{"name":"dicom","volume":0}'"""
        + (""" or '{"name":"dicom","echo":1}'""" if echoes else ""),
    )


def _volumes(slices: list[DicomSlice]) -> list[list[DicomSlice]]:
    """Return the volumes, each with every position once; all slices as one where they cannot be told apart."""
    places: dict[tuple[float, ...], list[DicomSlice]] = {}
    for one in slices:
        at = tuple(np.round(np.concatenate([one.position, one.directions.ravel()]), 2) + 0.0)
        places.setdefault(at, []).append(one)
    counts = {len(found) for found in places.values()}
    if counts == {1} or len(counts) > 1:
        return [slices]
    ordered = [sorted(found, key=_key) for found in places.values()]
    if any(_key(a) == _key(b) for found in ordered for a, b in pairwise(found)):
        return [slices]  # the same slice twice
    volumes = [list(volume) for volume in zip(*ordered, strict=True)]
    mixed = any(len({_contrast(one) for one in volume}) > 1 for volume in volumes)
    return [slices] if mixed else volumes


def _contrast(one: DicomSlice) -> tuple[object, ...]:
    return (one.component, one.marks.get("EchoTime"), one.marks.get("DiffusionBValue"), one.image_type)


def _key(one: DicomSlice) -> tuple[object, ...]:
    order = [one.marks.get(keyword, -1.0) for keyword in MARKS[:-1]]
    number = one.marks.get(MARKS[-1], -1.0) if one.frame is None else float(one.frame)
    return (one.component != MAGNITUDE, one.component, *order, one.image_type, number)


def _echo_numbers(slices: list[DicomSlice]) -> dict[int, float | None]:
    """Return number of an echo -> its time in ms, None where the header does not say it."""
    times = sorted({s.marks["EchoTime"] for s in slices if "EchoTime" in s.marks})
    said: dict[int, float | None] = {}
    for one in slices:
        if "EchoNumbers" in one.marks:
            said[int(one.marks["EchoNumbers"])] = one.marks.get("EchoTime")
    # Many a header calls every echo the first.
    return dict(sorted(said.items())) if len(said) >= max(len(times), 1) else dict(enumerate(times, 1))


def _of_echo(slices: list[DicomSlice], echo: int, where: str) -> list[DicomSlice]:
    numbers = _echo_numbers(slices)
    if echo not in numbers:
        raise InputError(
            "no such echo", where=where, expected=_listed_echoes(numbers) or "no echo to choose", got=f"echo {echo}"
        )
    time = numbers[echo]
    if time is None or list(numbers.values()).count(time) > 1:
        return [s for s in slices if s.marks.get("EchoNumbers") == echo]
    return [s for s in slices if s.marks.get("EchoTime") == time]


def _listed_echoes(numbers: dict[int, float | None]) -> str:
    return ", ".join(f"echo {n}" + ("" if time is None else f" of {time:g} ms") for n, time in numbers.items())


def _described(volumes: list[list[DicomSlice]]) -> list[str]:
    """Return what tells each volume from the others, in words; nothing that a header says freely."""
    first = [volume[0] for volume in volumes]
    texts: list[list[str]] = [[] for _ in first]
    if len({one.component for one in first}) > 1:
        texts = [[one.component] for one in first]
    for keyword, (word, unit) in _WORDS.items():
        if len({one.marks.get(keyword) for one in first}) > 1:
            for text, one in zip(texts, first, strict=True):
                text += [f"{word} {one.marks[keyword]:g}{unit}"] if keyword in one.marks else []
    if len({one.image_type for one in first}) > 1:
        for text, one in zip(texts, first, strict=True):
            text += sorted({_CONTRASTS[word] for word in one.image_type if word in _CONTRASTS} | set(one.maps))
    return [", ".join(text) or "another image" for text in texts]
