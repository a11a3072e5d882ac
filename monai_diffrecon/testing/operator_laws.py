# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What every forward operator must obey."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError, InputError, PluginError
from monai_diffrecon.numerics.conjugate_gradient import inner
from monai_diffrecon.protocols import PLANE_AXIS, Operator
from monai_diffrecon.slabs import Slab
from monai_diffrecon.testing.execution.slabs_in_threads import run_in_threads

_DENSE_LIMIT = 512


def check_operator(operator: Operator, *, supports_double: bool = True, norm_tolerance: float = 0.1) -> None:
    """Check all laws of :class:`OperatorLaws`, which says what they are.

    Args:
        operator: an operator small enough for many calls; left as it was.
        supports_double: as in the class.
        norm_tolerance: as in the class.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    laws = OperatorLaws()
    laws.supports_double, laws.norm_tolerance = supports_double, norm_tolerance
    for name, law in vars(OperatorLaws).items():
        if name.startswith("test_"):
            law(laws, operator)


class OperatorLaws:
    """Laws of an operator as tests: inherit, and give a fixture ``operator``, small enough for many calls.

    ::

        class TestMyOperator(OperatorLaws):
            @pytest.fixture
            def operator(self) -> Operator:
                return MyOperator(VolumeGeometry((6, 7, 4)))

    Test vectors have mean zero: positive ones hide errors of the adjoint.

    Attributes:
        supports_double: ``operator.double()`` computes in double precision.
        norm_tolerance: how far ``norm()`` may lie below ||A^T A||, relative; power iteration approaches from below.
        slice_dim: axis of the measurement along which slices are stacked, for ``of_slice``.
    """

    supports_double: bool = True
    norm_tolerance: float = 0.1
    slice_dim: int = -1

    def of_slice(self, operator: Operator, index: int) -> Operator | None:
        """Return the same operator for slice ``index`` alone, or None; for operators with a ``slice_plane``."""
        return None

    def test_shapes_and_types(self, operator: Operator) -> None:
        """Every map returns the declared shape and type, finite, and leaves its argument alone."""
        x, y = _volume(operator), _measurement(operator)
        _maps(operator.forward, x, y, "forward")
        _maps(operator.adjoint, y, x, "adjoint")
        _maps(operator.initial, y, x, "initial")
        _maps(operator.normal, x, x, "normal")

    def test_adjoint(self, operator: Operator) -> None:
        """``Re <A x, y> = Re <x, A^T y>`` in single precision."""
        _check_adjoint(operator, torch.float32, 1e-5)

    def test_adjoint_in_double_precision(self, operator: Operator) -> None:
        """The same, in double precision: what single precision hides is found here."""
        if self.supports_double:
            _check_adjoint(copy.deepcopy(operator).double(), torch.float64, 1e-10)

    def test_linear(self, operator: Operator) -> None:
        """``A (2 u - 3 v) = 2 A u - 3 A v``, and the same for the adjoint."""
        u, v = _volume(operator, 1), _volume(operator, 2)
        p, q = _measurement(operator, 1), _measurement(operator, 2)
        _close(operator(2 * u - 3 * v), 2 * operator(u) - 3 * operator(v), "forward is not linear")
        adjoint = operator.adjoint
        _close(adjoint(2 * p - 3 * q), 2 * adjoint(p) - 3 * adjoint(q), "adjoint is not linear")

    def test_gradients(self, operator: Operator) -> None:
        """The gradient of ``Re <A x, y>`` by x is ``A^T y``, by y it is ``A x``; that of ``Re <N x, u>`` is ``N u``."""
        x, u, y = _volume(operator, 1), _volume(operator, 2), _measurement(operator, 3)
        _close(_gradient(operator.forward, x, y), operator.adjoint(y), "the gradient of forward is not the adjoint")
        _close(_gradient(operator.adjoint, y, x), operator.forward(x), "the gradient of adjoint is not forward")
        _close(_gradient(operator.normal, x, u), operator.normal(u), "the gradient of normal is not normal")

    def test_normal(self, operator: Operator) -> None:
        """``normal`` is the adjoint after forward."""
        x = _volume(operator)
        _close(operator.normal(x), operator.adjoint(operator(x)), "normal is not A^T A")

    def test_norm(self, operator: Operator) -> None:
        """``norm()`` is the largest eigenvalue of A^T A, or a little less."""
        true, norm = _largest_eigenvalue(operator), operator.norm()
        assert norm == operator.norm(), "norm() is not the same twice"
        low = (1.0 - self.norm_tolerance) * true
        assert low <= norm <= (1.0 + 1e-3) * true, f"norm() is {norm:.6g}, ||A^T A|| is {true:.6g}"

    def test_wrong_input(self, operator: Operator) -> None:
        """A wrong shape, or complex numbers for real ones, is an InputError."""
        x, y = _volume(operator), _measurement(operator)
        for name, good in (("forward", x), ("normal", x), ("adjoint", y), ("initial", y)):
            other = good.real if good.is_complex() else good.to(torch.complex64)
            for wrong in (good[..., 1:], torch.cat([good, good]), good.unsqueeze(0), other):
                if wrong.shape == good.shape and wrong.dtype == good.dtype:
                    continue  # a part of an empty measurement is the whole
                try:
                    getattr(operator, name)(wrong)
                except InputError:
                    continue
                raise AssertionError(f"{name} takes {wrong.dtype} {tuple(wrong.shape)}")

    def test_slice_by_slice(self, operator: Operator) -> None:
        """With a ``slice_plane``, A^T A leaves other slices alone, and a slice alone measures what it did."""
        if operator.slice_plane is None:
            return
        dim = 1 + PLANE_AXIS[operator.slice_plane]
        x = _volume(operator)
        y = operator(x)
        for index in range(x.shape[dim]):
            alone = torch.zeros_like(x)
            alone.select(dim, index).copy_(x.select(dim, index))
            spread = operator.normal(alone)
            spread.select(dim, index).zero_()
            assert not bool(spread.any()), f"slice {index} reaches other slices, but slice_plane is set"
            single = self.of_slice(operator, index)
            if single is not None:
                part = y.narrow(self.slice_dim, index, 1)
                _close(single(x.narrow(dim, index, 1)), part, f"slice {index} alone measures something else")

    def test_slice_axis(self, operator: Operator) -> None:
        """With ``slice_axis(plane) = a``, slice k of that plane reaches index k along a of the measurement alone."""
        x = _volume(operator)
        for plane, index_of_plane in PLANE_AXIS.items():
            axis, dim = operator.slice_axis(plane), 1 + index_of_plane
            if axis is None:
                continue
            count, found = x.shape[dim], operator.measurement_shape[axis]
            assert count == found, f"slice_axis({plane!r}) is {axis}, of length {found}, but there are {count} slices"
            for index in range(count):
                alone = torch.zeros_like(x)
                alone.select(dim, index).copy_(x.select(dim, index))
                spread = operator(alone)
                spread.select(axis, index).zero_()
                assert not bool(spread.any()), f"{plane} slice {index} reaches other indices along slice_axis {axis}"

    def test_slabs(self, operator: Operator) -> None:
        """What ``restricted`` returns for slabs does together what the operator does, and leaves it alone.

        An operator that cannot be restricted (a ConfigError) is excused.
        """
        x, y = _volume(operator), _measurement(operator)
        before = operator(x), operator.adjoint(y)
        for plane, index in PLANE_AXIS.items():
            axis, dim, count = operator.slice_axis(plane), 1 + index, operator.geometry.shape[index]
            if count < 2 or (axis is None and not (operator.slabs_add_up and plane == "axial")):
                continue
            slabs = [Slab(dim, a, b, count) for a, b in pairwise(sorted({0, 1, 1 + count // 2, count}))]
            try:
                parts = {slab: operator.restricted(plane, slab.first, slab.end) for slab in slabs}
            except ConfigError:
                continue
            for slab, part in parts.items():
                assert part.volume_shape == (1, *part.geometry.shape) == tuple(slab.of(x).shape), (
                    f"restricted({plane!r}, {slab.first}, {slab.end}) is of a volume of {part.volume_shape}"
                )
            if self.supports_double:
                _check_slabs(copy.deepcopy(operator).double(), plane, axis, slabs, torch.float64)
            else:
                _check_slabs(operator, plane, axis, slabs, torch.float32)
            for part in parts.values():
                part.to("meta")
            same = all(buffer.device.type != "meta" for buffer in operator.buffers())
            same = same and all(map(torch.equal, (operator(x), operator.adjoint(y)), before))
            assert same, "what is done to a restricted operator changes the whole one"


def _check_slabs(operator: Operator, plane: str, axis: int | None, slabs: list[Slab], dtype: torch.dtype) -> None:
    x, y = _volume(operator, dtype=dtype), _measurement(operator, dtype=dtype)

    def done(slab: Slab | None) -> dict[str, Tensor]:
        on = operator if slab is None else operator.restricted(plane, slab.first, slab.end)
        of_x = x if slab is None else slab.of(x)
        of_y = y if slab is None or axis is None else slab.of(y, axis)
        numbers = {"norm": on.norm(), "residual_norm": on.residual_norm(of_x, of_y)}
        return {
            "forward": on(of_x),
            "adjoint": on.adjoint(of_y),
            "normal": on.normal(of_x),
            "initial": on.initial(of_y),
            **{name: torch.tensor([number]) for name, number in numbers.items()},
        }

    whole, parts = done(None), run_in_threads(done, slabs)
    for name, expected in whole.items():
        along = axis if name == "forward" else slabs[0].dim
        given = [part[name] for part in parts]
        together = torch.cat(given, dim=along) if expected.ndim > 1 and along is not None else None
        for got in given if together is None else [together]:
            _close(got, expected, f"{name} of the {plane} slabs {[len(slab) for slab in slabs]}")


def _draw(shape: tuple[int, ...], *, is_complex: bool, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kind = dtype.to_complex() if is_complex else dtype
    return torch.randn(shape, generator=generator, dtype=kind)


def _volume(operator: Operator, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return _draw(operator.volume_shape, is_complex=operator.complex_volume, seed=seed, dtype=dtype)


def _measurement(operator: Operator, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    shape, is_complex = operator.measurement_shape, operator.complex_measurement
    return _draw(shape, is_complex=is_complex, seed=100 + seed, dtype=dtype)


def _maps(apply: Callable[[Tensor], Tensor], argument: Tensor, expected: Tensor, name: str) -> None:
    kept = argument.clone()
    try:
        got = apply(argument)
    except PluginError as error:
        raise AssertionError(str(error)) from error
    assert torch.equal(argument, kept), f"{name} changes its argument in place"
    assert got.shape == expected.shape, f"{name} returns {tuple(got.shape)}, declared is {tuple(expected.shape)}"
    assert got.dtype == expected.dtype, f"{name} returns {got.dtype}, declared is {expected.dtype}"
    assert bool(torch.isfinite(got).all()), f"{name} is not finite"


def _check_adjoint(operator: Operator, dtype: torch.dtype, tolerance: float) -> None:
    wide = torch.float64
    for seed in range(3):
        x, y = _volume(operator, seed, dtype), _measurement(operator, seed, dtype)
        ax, aty = operator(x), operator.adjoint(y)
        assert ax.dtype == y.dtype, f"forward of {x.dtype} returns {ax.dtype}"
        assert aty.dtype == x.dtype, f"adjoint of {y.dtype} returns {aty.dtype}"
        left, right = inner(_to(ax, wide), _to(y, wide)), inner(_to(x, wide), _to(aty, wide))
        # The size of <A x, y> for random y: a wrong adjoint is judged by that, not by the far larger bound.
        size = float(torch.linalg.vector_norm(ax) * torch.linalg.vector_norm(y)) / max(y.numel(), 1) ** 0.5
        error = abs(left - right)
        assert error <= tolerance * size, f"not the adjoint: <A x, y> = {left:.12g}, <x, A^T y> = {right:.12g}"


def _to(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype.to_complex() if x.is_complex() else dtype)


def _gradient(apply: Callable[[Tensor], Tensor], at: Tensor, weights: Tensor) -> Tensor:
    variable = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((apply(variable) * weights.conj()).real.sum(), variable)
    return gradient


def _largest_eigenvalue(operator: Operator) -> float:
    """Return the largest eigenvalue of A^T A: from the whole matrix when it is small, else by 300 power iterations."""
    x = _volume(operator).to(operator.volume_dtype)
    if x.numel() <= _DENSE_LIMIT:
        basis = torch.eye(x.numel(), dtype=x.dtype)
        columns = [operator.normal(e.reshape(x.shape)).flatten() for e in basis]
        return float(torch.linalg.eigvalsh(torch.stack(columns, 1))[-1])
    with torch.no_grad():
        for _ in range(300):
            x = operator.normal(x / torch.linalg.vector_norm(x))
    return float(torch.linalg.vector_norm(x))


def _close(got: Tensor, expected: Tensor, what: str, tolerance: float = 1e-5) -> None:
    assert got.shape == expected.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    if expected.numel() == 0:
        return
    error = float((got - expected).abs().max())
    scale = float(expected.abs().max())
    assert error <= tolerance * max(scale, 1e-30), f"{what}: off by {error:.3g} where values reach {scale:.3g}"
