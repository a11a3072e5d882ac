# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The inverse problem and the noise of a slab."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import PLANE_AXIS, ConsistencyStep, NoiseSource, Operator, Plugin, Problem, SamplerState
from monai_diffrecon.slabs import Slab, gathered

#: Option that cuts a volume into slabs -> what a user may do where that is impossible.
_MENDS = {
    "share": 'set share to "slices"',
    "volume_store": "set volume_store to null",
    "adaptation": "set adaptation to null",
}


def slab_plane(operator: Operator, primary: str, option: str = "share") -> str:
    """Return the plane whose slices the operator leaves apart, for the cuts of a volume.

    That of the primary network is preferred, since its slices stay whole; otherwise the one with most slices. Axial
    where the measurements of axial slabs add up.

    Args:
        operator: the forward operator.
        primary: plane of the primary network.
        option: the option that asks for slabs.

    Raises:
        ConfigError: there is none.
    """
    planes = [plane for plane in PLANE_AXIS if operator.slice_axis(plane) is not None]
    if not planes and operator.slabs_add_up:
        return "axial"
    if not planes:
        raise ConfigError(
            "the operator couples the slices of every plane",
            where=f"inferer#{option}",
            expected="an operator that leaves the slices of a plane apart",
            got=type(operator).__name__,
            mend=_MENDS[option],
        )
    if primary in planes:
        return primary
    return max(planes, key=lambda plane: operator.geometry.shape[PLANE_AXIS[plane]])


def measured_axis(operator: Operator, slab: Slab) -> int | None:
    """Return the axis of the measurement along which it is cut with the volume; None where slabs keep all of it."""
    return operator.slice_axis(next(plane for plane, axis in PLANE_AXIS.items() if axis + 1 == slab.dim))


def problem_of(problem: Problem, slab: Slab) -> Problem:
    """Return the problem of the slices of a slab.

    Args:
        problem: of the whole volume.
        slab: the slab.

    Raises:
        ConfigError: the operator cannot be restricted.
    """
    axis, y = measured_axis(problem.operator, slab), problem.measurement
    plane = next(plane for plane, along in PLANE_AXIS.items() if along + 1 == slab.dim)
    operator = problem.operator.restricted(plane, slab.first, slab.end)
    return replace(problem, operator=operator, measurement=y if axis is None else slab.of(y, axis).contiguous())


def slab_state(state: SamplerState, slab: Slab) -> SamplerState:
    """Return a slab's part of the state of a run: of its iterate, and of what is remembered in its shape."""
    return _each_volume(state, slab.of)


def whole_state(state: SamplerState) -> SamplerState:
    """Return the state of the whole run at the first slab, and of this slab at the others."""
    return _each_volume(state, gathered)


def _each_volume(state: SamplerState, change: Callable[[Tensor], Tensor]) -> SamplerState:
    memory = {
        key: {name: change(value) if value.shape == state.x.shape else value for name, value in sorted(kept.items())}
        for key, kept in sorted(state.memory.items())
    }
    return replace(state, x=change(state.x), memory=memory)


def check_in_slabs(plugins: Sequence[Plugin], option: str = "share") -> None:
    """Refuse plugins, and plugins among their options, that do not say that they work on a slab.

    Args:
        plugins: the plugins.
        option: the option that asks for slabs.

    Raises:
        ConfigError: one does not; or a consistency step needs gradients through the networks.
    """
    for plugin in plugins:
        guided = isinstance(plugin, ConsistencyStep) and type(plugin).guidance is not ConsistencyStep.guidance
        if guided or not vars(type(plugin)).get("in_slabs", False):
            raise ConfigError(
                f"{type(plugin).__name__} needs the volume as a whole",
                where=f"inferer#{option}",
                expected="plugins that work on a part of the volume",
                got=type(plugin).__name__,
                mend=_MENDS[option],
            )
        for name in plugin.plugin_options:
            value = getattr(plugin, name, None)
            inner = value if isinstance(value, list | tuple) else [value]
            check_in_slabs([item for item in inner if isinstance(item, Plugin)], option)


class NoiseOfSlab(NoiseSource):
    """The part of a noise source's volumes that belongs to a slab.

    Args:
        source: the noise source.
        slab: the slab.
        axis: axis of the measurement along which it is cut; None where it is whole, or empty.
    """

    def __init__(self, source: NoiseSource, slab: Slab, axis: int | None) -> None:
        super().__init__(source.seed, source.case)
        self.source, self.of, self.axis = source, slab, axis

    def volume(
        self, shape: tuple[int, ...], step: int, *, stream: str = "sampler", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return unit-variance noise in the shape of the slab."""
        whole = list(shape)
        whole[self.of.dim] = self.of.count
        return self.source.slab(tuple(whole), step, self.of, stream=stream, dtype=dtype)

    def measurement(
        self, shape: tuple[int, ...], step: int, *, stream: str = "sampler", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return independent unit-variance noise in the shape of the slab's measurement."""
        if self.axis is None:
            return self.source.measurement(shape, step, stream=stream, dtype=dtype)
        whole = list(shape)
        whole[self.axis] = self.of.count
        drawn = self.source.measurement(tuple(whole), step, stream=stream, dtype=dtype)
        return self.of.of(drawn, self.axis).contiguous()

    def uniform(self, step: int, *, stream: str) -> float:
        """Return one uniform number in [0, 1)."""
        return self.source.uniform(step, stream=stream)
