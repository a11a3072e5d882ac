# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A part of the measurement that a reconstruction does not get, and has to predict."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffrecon.engine.problem.whitened_operator import WhitenedOperator
from monai_diffrecon.errors import InputError
from monai_diffrecon.numerics.noise import key_seed
from monai_diffrecon.protocols import PLANE_AXIS, Operator

#: Part of each axis of k-space around zero frequency that is never held out: nothing else would predict it.
_CENTRE = 0.08


class HeldOutOperator(WhitenedOperator):
    """An operator without the entries that are held out, and with the classical estimate of what remains.

    Gaps between views or thick slices are filled in by linear interpolation before the classical estimate, which
    takes them for measured otherwise; those of k-space by 0, as ever.

    Args:
        operator: the operator.
        held: the entries held out, bool, of the shape of the measurement.
        axis: the axis of the measurement whose units (views, slices) are held out; None for single entries.
    """

    def __init__(self, operator: Operator, held: Tensor, axis: int | None) -> None:
        super().__init__(operator, (~held).to(torch.float32))
        self.axis = axis

    def initial(self, y: Tensor) -> Tensor:
        """Return the classical estimate of the operator from what is kept."""
        return self.operator.initial(y if self.axis is None else self._filled(y, self.axis))

    def _filled(self, y: Tensor, axis: int) -> Tensor:
        kept = (self.root.movedim(axis, 0).flatten(1) > 0).any(dim=1).nonzero().flatten().cpu()
        place = torch.arange(y.shape[axis])
        after = torch.searchsorted(kept, place).clamp(0, len(kept) - 1)
        before = torch.where(kept[after] > place, after - 1, after).clamp_min(0)
        low, high = kept[before], kept[after]
        share = ((place - low) / (high - low).clamp_min(1)).clamp(0.0, 1.0).to(y.real.dtype).to(y.device)
        share = share.reshape([-1 if dim == axis else 1 for dim in range(y.ndim)])
        low, high = low.to(y.device), high.to(y.device)
        return (1.0 - share) * y.index_select(axis, low) + share * y.index_select(axis, high)


def held_out_entries(
    operator: Operator, fraction: float, *key: object, where: str = "inferer#tune"
) -> tuple[Tensor, int | None]:
    """Choose entries of a measurement at random, by key.

    Views of CT and thick slices are held out as a whole, the first and the last never. Of k-space and anything else
    it is what an operator with a random volume measures: points, or lines where all points of a line are measured,
    the same for all coils, and not around zero frequency.

    Args:
        operator: the forward operator.
        fraction: part of the units.
        key: what the choice depends on.
        where: the option that asks for it, for messages.

    Returns:
        The entries, bool, of the shape of the measurement, and the axis of their units, None for points and lines.

    Raises:
        InputError: fewer than two units could be held out.
    """
    shape, axis = operator.measurement_shape, unit_axis(operator)
    if axis is not None:
        units = torch.zeros([n if dim == axis else 1 for dim, n in enumerate(shape)], dtype=torch.bool)
        units.narrow(axis, 1, max(shape[axis] - 2, 0)).fill_(True)
        seen = torch.ones(shape, dtype=torch.bool)
    else:
        seen = _seen(operator)
        units = _units(seen, operator)
    places = units.nonzero()
    if len(places) < 2:
        raise InputError(
            "nothing to hold out",
            where=where,
            expected="a measurement of several views, slices, lines or points",
            got=f"{len(places)} of which one could be left out",
            mend=f"set {where.partition('#')[2]} to null",
        )
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(key_seed(*key, "held out")))
    chosen = places[order[: max(round(fraction * len(places)), 1)]]
    held = torch.zeros_like(units)
    held[tuple(chosen.T)] = True
    return held.expand(shape) & seen, axis


def unit_axis(operator: Operator) -> int | None:
    """Return the axis of the measurement along which views or thick slices lie, or None."""
    if operator.family == "ct":
        return 0
    return None if operator.thick_plane is None else 1 + PLANE_AXIS[operator.thick_plane]


def _seen(operator: Operator) -> Tensor:
    """Return the entries that are measured: those that a random volume reaches."""
    probe = torch.rand(operator.volume_shape, generator=torch.Generator().manual_seed(0)).to(operator.volume_dtype)
    with torch.no_grad():
        return operator(probe) != 0


def _units(seen: Tensor, operator: Operator) -> Tensor:
    """Return what may be held out: of length 1 along the axes along which all is measured or nothing."""
    mri = operator.family == "mri"
    units = seen.any(dim=0, keepdim=True) if mri else seen
    across = [dim for dim in range(units.ndim) if not torch.equal(units.all(dim=dim), units.any(dim=dim))]
    for dim in range(units.ndim) if across else ():
        units = units if dim in across else units.narrow(dim, 0, 1)
    if mri and operator.initial_kind == "zero_filled" and across:
        centre = torch.ones_like(units)
        for dim in across:
            n = units.shape[dim]
            near = (torch.arange(n) - n // 2).abs() <= max(_CENTRE / 2 * n, 1)
            centre &= near.reshape([-1 if other == dim else 1 for other in range(units.ndim)])
        units = units & ~centre
    return units
