# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The law kit finds operators that are wrong."""

import pytest
import torch
from torch import Tensor

from monai_diffrecon.operators.parallel_ct import ParallelCT
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.protocols import Operator, VolumeGeometry
from monai_diffrecon.testing.operator_laws import OperatorLaws, check_operator

GEOMETRY = VolumeGeometry((5, 4, 6))


def broken(**methods: object) -> Operator:
    return type("Broken", (SliceThickness,), methods)(GEOMETRY, thickness=1.5)


def _shifted(self: SliceThickness, y: Tensor) -> Tensor:
    return SliceThickness._adjoint(self, y).roll(1, -1)


def _slightly(self: SliceThickness, y: Tensor) -> Tensor:
    return SliceThickness._adjoint(self, y) * (1 + 1e-4)


def _scales_in_place(self: SliceThickness, x: Tensor) -> Tensor:
    return SliceThickness._forward(self, x.mul_(2.0))


def _other_weights(self: SliceThickness, plane: str, first: int, end: int) -> Operator:
    part = SliceThickness.restricted(self, plane, first, end)
    part.weights = self.weights * (1.0 + 0.01 * first)
    return part


def _of_one_memory(self: SliceThickness, plane: str, first: int, end: int) -> Operator:
    part = SliceThickness.restricted(self, plane, first, end)
    part._buffers = self._buffers
    return part


def _along_y(self: SliceThickness, x: Tensor) -> Tensor:
    return SliceThickness._forward(self, x).roll(1, 2)


@pytest.mark.parametrize(
    ("law", "methods", "message"),
    [
        ("test_adjoint", {"_adjoint": _shifted}, "not the adjoint"),
        ("test_adjoint", {"_adjoint": _slightly}, "not the adjoint"),
        ("test_adjoint_in_double_precision", {"_adjoint": _slightly}, "not the adjoint"),
        ("test_linear", {"_forward": lambda s, x: SliceThickness._forward(s, x) + 1}, "forward is not linear"),
        ("test_linear", {"_adjoint": lambda s, y: SliceThickness._adjoint(s, y).abs()}, "adjoint is not linear"),
        ("test_gradients", {"normal": lambda s, x: s.adjoint(s(x.detach())) + 0 * x}, "gradient of normal"),
        ("test_normal", {"normal": lambda s, x: x}, "normal is not"),
        ("test_norm", {"norm": lambda s: 7.0}, "norm"),
        ("test_norm", {"norm": lambda s: 1e-3}, "norm"),
        ("test_wrong_input", {"_check": lambda s, *a: None, "_forward": lambda s, x: x}, "forward takes"),
        ("test_shapes_and_types", {"initial": lambda s, y: y}, "initial returns"),
        ("test_shapes_and_types", {"_forward": _scales_in_place}, "changes its argument"),
        ("test_slice_by_slice", {"slice_plane": "axial"}, "reaches other slices"),
        ("test_slice_axis", {"slice_axis": lambda s, plane: -1}, "slice_axis.'sagittal'. is -1, of length 4"),
        ("test_slice_axis", {"_forward": _along_y}, "coronal slice 0 reaches other indices along slice_axis 2"),
        ("test_slabs", {"restricted": _other_weights}, "forward of the sagittal slabs .1, 2, 2.: off by"),
        ("test_slabs", {"restricted": _of_one_memory}, "changes the whole one"),
        ("test_slabs", {"restricted": lambda s, *a: s}, "forward|wrong shape|of a volume of"),
    ],
)
def test_a_broken_operator_is_found(law: str, methods: dict, message: str) -> None:
    getattr(OperatorLaws(), law)(broken())
    with pytest.raises(AssertionError, match=message):
        getattr(OperatorLaws(), law)(broken(**methods))


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"_adjoint": _shifted}, "not the adjoint"),
        ({"normal": lambda s, x: 2 * SliceThickness.normal(s, x)}, "normal is not"),
        ({"norm": lambda s: 7.0}, "norm"),
        ({"slice_plane": "axial"}, "reaches other slices"),
    ],
)
def test_the_function_checks_the_laws(methods: dict, message: str) -> None:
    check_operator(broken())
    with pytest.raises(AssertionError, match=message):
        check_operator(broken(**methods))


def test_the_function_passes_its_settings_on_and_leaves_the_operator_alone() -> None:
    """An operator that has no double precision, and a norm() 5 % too low."""

    def single(self: SliceThickness, x: Tensor) -> Tensor:
        return SliceThickness._forward(self, x.float()).to(x.dtype)

    coarse = broken(_forward=single)
    check_operator(coarse, supports_double=False)
    with pytest.raises(AssertionError, match="not the adjoint"):
        check_operator(coarse)
    low = broken(norm=lambda s: 0.95 * SliceThickness.norm(s))
    check_operator(low)
    with pytest.raises(AssertionError, match="norm"):
        check_operator(low, norm_tolerance=0.01)
    operator = ParallelCT(GEOMETRY, views=3)
    check_operator(operator)
    assert operator.volume_dtype == torch.float32


def test_a_slice_that_measures_something_else_is_found() -> None:
    class Laws(OperatorLaws):
        def of_slice(self, operator: Operator, index: int) -> Operator:
            return ParallelCT(VolumeGeometry((5, 4, 1)), views=3, first_angle=5.0 * index)

    with pytest.raises(AssertionError, match="slice 1 alone"):
        Laws().test_slice_by_slice(ParallelCT(GEOMETRY, views=3))


def test_power_iteration_of_large_operators_agrees_with_the_matrix() -> None:
    operator = SliceThickness(VolumeGeometry((9, 9, 9)), thickness=2.0)
    assert torch.Size(operator.volume_shape).numel() > 512
    OperatorLaws().test_norm(operator)
