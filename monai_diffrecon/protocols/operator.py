# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of a forward operator."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from monai_diffrecon import slabs
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, PluginError
from monai_diffrecon.protocols.geometry import PLANE_AXIS, VolumeGeometry
from monai_diffrecon.protocols.plugin import Plugin

#: What operators measure: projections, k-space, images, nothing at all.
FAMILIES = ("ct", "mri", "image", "none")


#: Power iterations for the norm of an operator.
NORM_ITERATIONS = 20

Part = TypeVar("Part", bound="Operator")
Module = TypeVar("Module", bound=nn.Module)


class _Linear(torch.autograd.Function):
    """Differentiate a linear map by its adjoint instead of through its inner steps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, apply: Any, transpose: Any) -> Tensor:
        ctx.apply_fn, ctx.transpose_fn = apply, transpose
        return apply(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Linear.apply(grads[0], ctx.transpose_fn, ctx.apply_fn), None, None


def _checked(initial: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Return a subclass's ``initial`` with checks of what comes in and goes out."""

    @wraps(initial)
    def checked(self: Operator, y: Tensor) -> Tensor:
        self._check(y, self.measurement_shape, self.complex_measurement, "measurement")
        return self._returned(initial(self, y), self.volume_shape, self.complex_volume, "initial")

    checked._is_checked = True  # type: ignore[attr-defined]
    return checked


class Operator(Plugin, nn.Module, ABC):
    """Linear map A of a volume (C, X, Y, Z) to a measurement.

    A subclass implements ``_forward``, ``_adjoint`` and ``initial``. Shape and type (real or complex) of what they take
    and return are checked on every call of ``forward``, ``adjoint`` and ``initial``: a wrong argument is an
    ``InputError``, a wrong result a ``PluginError``. Gradients run through the adjoint. Inner products are
    ``Re <u, v>`` on both sides, so that a real volume with a complex measurement has a real adjoint.

    Args:
        geometry: shape and spacing of the volume.
        measurement_shape: shape of the measurement.
        complex_measurement: the measurement is complex.
        complex_volume: the volume is complex.

    Attributes:
        family: what A measures, for settings that depend on it (presets of methods): ``ct``, ``mri``, ``image`` (thick
            slices, say), or ``none`` where nothing is measured. None does not say it; the general settings are taken.
        slice_plane: the plane in which A acts slice by slice, or None when it couples all slices.
        thick_plane: the plane of the thick slices that A measures, which planes across it see side by side; None where
            there are none.
        initial_kind: what ``initial`` computes, for methods that are called by its name: ``fbp`` (filtered
            back-projection), ``fdk``, ``interpolation``, ``zero_filled``; None when it is none of these.
        measurement_axes: names of the axes of the measurement, for messages; may be empty.
        slabs_add_up: A mixes the slices of every plane, but the measurement is the sum of those of axial slabs:
            ``restricted("axial", ...)`` keeps all of the measurement, and its ``_forward`` ends with
            ``monai_diffrecon.slabs.sum_of_measurements``. ``_adjoint`` and ``initial`` return the slab.
    """

    slabs_add_up: bool = False
    family: ClassVar[str | None] = None
    slice_plane: ClassVar[str | None] = None
    thick_plane: str | None = None
    initial_kind: str | None = None
    measurement_axes: tuple[str, ...] = ()

    def __init__(
        self,
        geometry: VolumeGeometry,
        measurement_shape: tuple[int, ...],
        *,
        complex_measurement: bool = False,
        complex_volume: bool = False,
    ) -> None:
        super().__init__()
        self.geometry = geometry
        self.volume_shape: tuple[int, int, int, int] = (1, *geometry.shape)
        self.measurement_shape = tuple(int(n) for n in measurement_shape)
        self.complex_measurement = complex_measurement
        self.complex_volume = complex_volume
        self._norm: float | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Wrap ``initial``, which subclasses implement under its public name; a mixin may bring it too."""
        super().__init_subclass__(**options)
        if not (getattr(cls.initial, "_is_checked", False) or getattr(cls.initial, "__isabstractmethod__", False)):
            cls.initial = _checked(cls.initial)  # type: ignore[method-assign, assignment]

    @classmethod
    def volume_geometry(cls, measurement: VolumeGeometry, **options: Any) -> VolumeGeometry:
        """Return the geometry of the volume behind a measurement that is itself an image.

        Args:
            measurement: geometry of the measured image (thick slices, say).
            options: the options the operator will be built with.

        Raises:
            InputError: this operator's measurement is no image; its geometry must come with it.
        """
        raise InputError(
            f"the measurement of {cls.__name__} does not state the geometry of its volume",
            where="operator",
            expected="a measurement with its operator and geometry",
            mend="use a measurement file, or simulate one from an image with --simulate true",
        )

    @classmethod
    def resolve_options(cls, measurement: VolumeGeometry, **options: Any) -> dict[str, Any]:
        """Return the options completed by what a measured image says; as they are unless overridden."""
        return options

    @classmethod
    def measured_plane(cls, measurement: VolumeGeometry, **options: Any) -> str | None:
        """Return the plane of a measured image's slices whose thickness this operator takes apart, or None."""
        return None

    @classmethod
    def notices(cls, measurement: VolumeGeometry, **options: Any) -> tuple[str, ...]:
        """Return what is to be said of a measured image before the run, a sentence each."""
        return ()

    def slice_axis(self, plane: str) -> int | None:
        """Return the axis of the measurement along which the slices of ``plane`` are apart, or None if A mixes them."""
        return None

    def restricted(self, plane: str, first: int, end: int) -> Operator:
        """Return the operator of the slices ``first`` to before ``end`` of a plane that A leaves apart.

        It measures the entries of the same indices along :meth:`slice_axis`, or all of them with ``slabs_add_up``.

        Args:
            plane: a plane with a ``slice_axis``; ``axial`` with ``slabs_add_up``.
            first: first slice.
            end: slice after the last.

        Raises:
            ConfigError: this operator cannot be restricted.
        """
        raise ConfigError(
            f"{type(self).__name__} cannot be restricted to a part of the volume",
            where="operator",
            expected="an operator that measures the slices of a plane one by one",
            mend="reconstruct the volume as a whole",
        )

    def cut(self: Part, plane: str, first: int, end: int) -> Part:
        """Return a copy for :meth:`restricted`, with shapes and geometry of the part; it shares the tensors."""
        part, axis = _copied(self), self.slice_axis(plane)
        part._norm = None
        part.geometry = self.geometry.part(PLANE_AXIS[plane], first, end)
        part.volume_shape = (1, *part.geometry.shape)
        if axis is not None:
            shape = list(self.measurement_shape)
            shape[axis] = end - first
            part.measurement_shape = tuple(shape)
        return part

    def measured_geometry(self) -> VolumeGeometry:
        """Return the geometry of a measurement that is an image; that of the volume unless overridden."""
        return self.geometry

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor:
        """Return A x; shape already checked."""

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y; shape already checked."""

    @abstractmethod
    def initial(self, y: Tensor) -> Tensor:
        """Return the classical estimate (C, X, Y, Z): FBP, zero-filled, interpolation; shape already checked."""

    def forward(self, x: Tensor) -> Tensor:
        """Return A x for a volume (C, X, Y, Z)."""
        self._check(x, self.volume_shape, self.complex_volume, "volume")
        result = _Linear.apply(x, self._forward, self._adjoint)
        return self._returned(result, self.measurement_shape, self.complex_measurement, "forward")

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y for a measurement, the exact adjoint under ``Re <u, v>``."""
        self._check(y, self.measurement_shape, self.complex_measurement, "measurement")
        result = _Linear.apply(y, self._adjoint, self._forward)
        return self._returned(result, self.volume_shape, self.complex_volume, "adjoint")

    def normal(self, x: Tensor) -> Tensor:
        """Return A^T A x; overridden where that is cheaper than both in turn."""
        return self.adjoint(self.forward(x))

    def residual_norm(self, x: Tensor, y: Tensor) -> float:
        """Return ``||A x - y||``; overridden where it needs less memory than A x."""
        return self.measured_norm(self(x) - y)

    def measured_norm(self, y: Tensor) -> float:
        """Return the norm of the whole measurement, of which ``y`` is what this slab keeps."""
        return slabs.squared_norm(y) ** 0.5 if self.slabs_add_up else slabs.norm(y)

    def norm(self) -> float:
        """Return ||A^T A||, the largest eigenvalue, by 20 power iterations from a fixed start; cached."""
        if self._norm is None:
            x = self._start().to(self.volume_dtype)
            buffer = next(self.buffers(), None)
            x = x if buffer is None else x.to(buffer.device)
            value = 1.0
            with torch.no_grad():
                for _ in range(NORM_ITERATIONS):
                    value = slabs.norm(x)
                    if value == 0.0:
                        break
                    x = self.normal(x / value)
                value = slabs.norm(x)
            self._norm = value
        return self._norm

    def _start(self) -> Tensor:
        """Return random numbers, of a slab those that it has in the whole volume."""
        generator = torch.Generator().manual_seed(0)
        now = slabs.peers()
        if now is None:
            return torch.rand(self.volume_shape, generator=generator)
        shape = list(self.volume_shape)
        shape[now.slab.dim] = now.slab.count
        planes = []
        for index in range(shape[1]):  # in the order of a volume, never all of it
            plane = torch.rand((shape[0], 1, *shape[2:]), generator=generator)
            if now.slab.dim != 1:
                planes.append(now.slab.of(plane))
            elif now.slab.first <= index < now.slab.end:
                planes.append(plane)
        return torch.cat(planes, dim=1)

    @property
    def volume_dtype(self) -> torch.dtype:
        """Data type of volumes: float32, or complex64 for a complex volume."""
        return torch.complex64 if self.complex_volume else torch.float32

    def _returned(self, result: Tensor, shape: tuple[int, ...], is_complex: bool, method: str) -> Tensor:
        self._check(result, shape, is_complex, f"{method} returns a tensor", PluginError)
        return result

    def _check(
        self, x: Tensor, shape: tuple[int, ...], is_complex: bool, what: str, error: type[DiffReconError] = InputError
    ) -> None:
        where = f"operator {type(self).__name__}"
        if tuple(x.shape) != tuple(shape):
            raise error(f"{what} has the wrong shape", where=where, expected=tuple(shape), got=tuple(x.shape))
        if x.is_complex() != is_complex:
            kind, got = "complex" if is_complex else "real", str(x.dtype).removeprefix("torch.")
            raise error(f"{what} has the wrong type", where=where, expected=f"{kind} numbers", got=got)


def _copied(module: Module) -> Module:
    """Return a copy that shares the tensors, and can be moved without the original."""
    made = copy.copy(module)
    made._parameters, made._buffers = dict(module._parameters), dict(module._buffers)
    made._modules = {name: None if inner is None else _copied(inner) for name, inner in module._modules.items()}
    return made


@dataclass(frozen=True)
class Problem:
    """The measurement equation ``y = A x + noise`` that a run solves.

    Attributes:
        operator: the forward operator A.
        measurement: y, scaled so that x is in network units.
        noise_std: standard deviation of the noise on each entry of y (each real component), in the units of
            ``measurement``; 0 for noiseless data.
    """

    operator: Operator
    measurement: Tensor
    noise_std: float = 0.0
