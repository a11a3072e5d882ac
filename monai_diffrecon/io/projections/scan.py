# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Projections, fields and angles of a scan, checked before the projections are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.numerics.ct.flat_field import count_floor, flat_field_line_integrals
from monai_diffrecon.numerics.ct.scan_angles import scan_angles

#: Bytes of the counts, as floats, that are worked on at once.
_AT_ONCE = 1 << 26


class Stack(Protocol):
    """Projections (views, rows, columns) that are read when they are indexed: an array, an HDF5 dataset, files."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (views, rows, columns)."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return the views (a slice, or a list that rises) and rows (a slice) of a pair."""


@dataclass(frozen=True)
class Fields:
    """What a pixel counts with and without the beam; arrays (rows, columns) of the rows that are wanted.

    Attributes:
        beam: mean of the white fields less ``dark``, above 0.
        dark: mean of the dark fields.
        floor: counts below which nothing was measured.
        notices: what is assumed.
    """

    beam: np.ndarray
    dark: np.ndarray
    floor: np.ndarray
    notices: tuple[str, ...] = ()


@dataclass
class ProjectionScan:
    """What was measured; lines are read when asked for.

    Attributes:
        data: the projections.
        degrees: angles of the views.
        first: first row that is wanted.
        stop: the one behind the last.
        where: name of the projections for messages.
        fields: None when the projections are line integrals already.
    """

    data: Stack
    degrees: tuple[float, ...]
    first: int
    stop: int
    where: str
    fields: Fields | None
    _low: int = field(default=0, init=False)

    @property
    def rows(self) -> int:
        """Number of rows that are wanted."""
        return self.stop - self.first

    @property
    def columns(self) -> int:
        """Number of columns."""
        return int(self.data.shape[2])

    @property
    def block(self) -> int:
        """Number of views to read at once."""
        return max(_AT_ONCE // (8 * self.rows * self.columns), 1)

    def lines(self, views: list[int], *, count: bool = False) -> np.ndarray:
        """Return line integrals (views, rows, columns).

        Args:
            views: which ones, rising.
            count: count what is clipped.

        Raises:
            InputError: numbers that are not finite.
        """
        whole = views[-1] - views[0] == len(views) - 1  # much faster than a list
        chosen = slice(views[0], views[-1] + 1) if whole else views
        values = finite(self.data[chosen, self.first : self.stop], self.where)
        if self.fields is None:
            return values
        lines, low = flat_field_line_integrals(values, self.fields.beam, self.fields.dark, self.fields.floor)
        self._low += low if count else 0
        return lines

    def notices(self, views: int) -> list[str]:
        """Return what is assumed of the fields, and what to say of the counts that were clipped in so many views."""
        found = [] if self.fields is None else list(self.fields.notices)
        if self._low:
            found.append(
                f"{self._low} of {views * self.rows * self.columns} counts lie within the noise of the dark fields: "
                "their line integrals are clipped"
            )
        return found


def finite(values: Any, where: str) -> np.ndarray:
    """Return numbers as float64.

    Raises:
        InputError: some are not finite.
    """
    if not np.isfinite(values).all():
        raise InputError("numbers that are not finite", where=where, mend="repair the measurement")
    return np.asarray(values).astype(np.float64)


def mean_fields(whites: np.ndarray, darks: np.ndarray | None, first: int, where: str) -> Fields:
    """Return what a pixel counts with and without the beam.

    Args:
        whites: (frames, rows, columns).
        darks: the same without the beam; None for a detector that counts 0 then.
        first: number of the first row, for messages.
        where: name of the white fields for messages.

    Raises:
        InputError: a pixel without a beam.
    """
    notices = () if darks is not None else ("there are no dark fields: 0 is assumed",)
    darks = np.zeros((1, *whites.shape[1:])) if darks is None else darks
    dark = darks.mean(axis=0)
    beam = whites.mean(axis=0) - dark
    if not (beam > 0.0).all():
        row, column = np.argwhere(beam <= 0.0)[0]
        raise InputError(
            "white fields that are not brighter than the dark fields",
            where=where,
            expected="a beam in each pixel",
            got=f"none in {np.count_nonzero(beam <= 0.0)} of {beam.size}, first in row {first + row}, column {column}",
            mend="select other rows by the reader's option rows, or fill in dead pixels",
        )
    return Fields(beam, dark, count_floor(beam, darks), notices)


def view_degrees(angles: Any, unit: str | None, where: str) -> tuple[float, ...]:
    """Return the angles of the views in degrees.

    Args:
        angles: numbers.
        unit: ``degrees`` or ``radians``; None is degrees, unless the numbers look like radians.
        where: name of the angles for messages.

    Raises:
        InputError: not finite, or they look like radians.
    """
    listed = finite(np.asarray(angles).reshape(-1), where).tolist()
    try:
        degrees = scan_angles(None, listed, 180.0, 0.0, unit)
    except ConfigError as error:
        mend = "state degrees or radians by the reader's option angles_unit"
        raise InputError(error.what, where=where, expected=error.expected, got=error.got, mend=mend) from None
    return tuple(round(angle, 9) for angle in degrees)
