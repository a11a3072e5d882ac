# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What goes into an operator's maps and comes out of them is checked, also where a subclass overrides ``initial``."""

import pytest
import torch
from torch import Tensor

from monai_diffrecon.errors import InputError, PluginError
from monai_diffrecon.protocols import Operator, VolumeGeometry

GEOMETRY = VolumeGeometry((3, 4, 2))
Y = torch.arange(24.0).reshape(1, 3, 4, 2)


class Identity(Operator):
    """An operator as API version 1 has it: ``initial`` under its public name, without a check of its own."""

    API_VERSION = 1

    def __init__(self, *, complex_volume: bool = False) -> None:
        super().__init__(
            GEOMETRY, (1, *GEOMETRY.shape), complex_measurement=complex_volume, complex_volume=complex_volume
        )

    def _forward(self, x: Tensor) -> Tensor:
        return x

    def _adjoint(self, y: Tensor) -> Tensor:
        return y

    def initial(self, y: Tensor) -> Tensor:
        """Return half the measurement."""
        return 0.5 * y


class Halved(Identity):
    def initial(self, y: Tensor) -> Tensor:
        return 0.5 * super().initial(y)


class Mixin:
    def initial(self, y: Tensor) -> Tensor:
        return -y


class Mixed(Mixin, Identity):
    pass


class Unfinished(Operator):
    """Abstract: what brings its ``initial`` comes after it in the order of resolution."""


class Finished(Unfinished, Identity):
    pass


@pytest.mark.parametrize(
    ("cls", "factor"), [(Identity, 0.5), (Halved, 0.25), (Mixed, -1.0), (Finished, 0.5)], ids=lambda v: str(v)
)
@pytest.mark.parametrize("name", ["forward", "adjoint", "initial"])
def test_each_map_checks_what_comes_in(cls: type[Identity], factor: float, name: str) -> None:
    operator = cls()
    assert torch.equal(getattr(operator, name)(Y), Y * (factor if name == "initial" else 1.0))
    for wrong in (Y[..., 1:], Y[0], torch.cat([Y, Y])):
        with pytest.raises(InputError) as caught:
            getattr(operator, name)(wrong)
        assert (caught.value.expected, caught.value.got) == ((1, 3, 4, 2), tuple(wrong.shape))
        assert caught.value.where == f"operator {cls.__name__}"
    with pytest.raises(InputError) as caught:
        getattr(operator, name)(Y.to(torch.complex64))
    assert (caught.value.expected, caught.value.got) == ("real numbers", "complex64")
    with pytest.raises(InputError) as caught:
        getattr(cls(complex_volume=True), name)(Y)
    assert (caught.value.expected, caught.value.got) == ("complex numbers", "float32")


@pytest.mark.parametrize(("name", "method"), [("forward", "_forward"), ("adjoint", "_adjoint"), ("initial", "initial")])
def test_each_map_checks_what_goes_out(name: str, method: str) -> None:
    short = type("Short", (Identity,), {method: lambda self, y: y[..., 1:]})()
    with pytest.raises(PluginError) as caught:
        getattr(short, name)(Y)
    assert name in caught.value.what
    assert (caught.value.where, caught.value.got, caught.value.exit_code) == ("operator Short", (1, 3, 4, 1), 7)
    phased = type("Phased", (Identity,), {method: lambda self, y: 1j * y})()
    with pytest.raises(PluginError) as caught:
        getattr(phased, name)(Y)
    assert (caught.value.expected, caught.value.got) == ("real numbers", "complex64")


def test_double_precision_and_gradients_pass() -> None:
    y = Y.double().requires_grad_()
    estimate = Identity().initial(y)
    assert estimate.dtype == torch.float64
    (gradient,) = torch.autograd.grad(estimate.sum(), y)
    assert torch.equal(gradient, torch.full_like(y, 0.5))


def test_the_override_keeps_its_docstring_and_a_class_without_one_stays_abstract() -> None:
    assert Identity.initial.__doc__ == "Return half the measurement."
    with pytest.raises(TypeError, match="initial"):
        Unfinished(GEOMETRY, (1,))  # type: ignore[abstract]
