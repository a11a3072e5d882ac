# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The family of an operator: who may state which, and what is chosen by it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_diffrecon.bundle.inspection.require_trusted import require_trusted
from monai_diffrecon.engine.problem.measured_operator import family_notice
from monai_diffrecon.engine.problem.whitened_operator import WhitenedOperator
from monai_diffrecon.errors import ConfigError, PluginError
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.operators.cartesian_mri_3d import CartesianMRI3D
from monai_diffrecon.operators.parallel_ct import ParallelCT
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.presets import by_family, family, family_of
from monai_diffrecon.registry.contract import breach
from monai_diffrecon.testing.dense_operator import DenseOperator

GEOMETRY = geometry_of((6, 6, 4))


def test_the_family_of_all_that_stands_for_an_operator() -> None:
    assert family_of("parallel_ct") == family_of("monai-diffrecon:parallel_ct") == "ct"
    assert family_of({"name": "cartesian_mri_3d", "acceleration": 4}) == family_of(CartesianMRI3D) == "mri"
    assert family_of(SliceThickness(GEOMETRY, thickness=2.0)) == "image"
    assert family_of("unconditional") == "none"
    assert family_of(DenseOperator) is None


@pytest.mark.parametrize("operator", [None, 3, {}, {"name": 3}, [], torch.nn.Identity])
def test_what_is_no_operator_has_no_family(operator: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        family_of(operator)
    assert (caught.value.where, caught.value.exit_code) == ("operator", 2)


def test_an_unknown_operator_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(PluginError) as caught:
        by_family("paralel_ct", ct=1)
    assert "parallel_ct" in (caught.value.mend or "")


def test_a_weighted_operator_is_of_the_same_family() -> None:
    operator = ParallelCT(GEOMETRY, views=3)
    weighted = WhitenedOperator(operator, torch.ones(operator.measurement_shape))
    assert weighted.family == "ct"


@pytest.mark.parametrize(
    ("stated", "accepted"),
    [
        *((f, True) for f in ("ct", "mri", "image", "none", None)),
        ("CT", False),
        ("pet", False),
        ("", False),
        (3, False),
    ],
)
def test_the_contract_accepts_known_families_only(stated: Any, accepted: bool) -> None:
    class Mine(DenseOperator):
        family = stated

        def __init__(self, geometry: Any) -> None: ...

    reason = breach("operators", Mine)
    assert (reason is None) == accepted
    assert accepted or ("family" in (reason or "") and repr(stated) in (reason or ""))


def test_a_property_is_no_family() -> None:
    class Late(DenseOperator):
        def __init__(self, geometry: Any) -> None: ...

        @property
        def family(self) -> str:  # type: ignore[override]
            return "ct"

    assert "family" in (breach("operators", Late) or "")


def test_falsy_settings_are_settings() -> None:
    assert by_family("parallel_ct", ct=0, mri=1) == 0
    assert by_family("parallel_ct", ct=None, mri=1) is None
    assert by_family("unconditional", none=False) is False


def test_a_family_without_a_setting_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        by_family({"name": "cartesian_mri"}, ct=1, image=2, other=3)
    error = caught.value
    assert (error.where, error.exit_code) == ("operator", 2)
    assert "ct or image" in str(error.expected)
    assert "cartesian_mri" in str(error.got)
    assert "mri" in str(error.got).split()


def test_an_operator_without_a_family_takes_the_general_settings_and_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    family._say.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [by_family(DenseOperator, ct=1, none=2, other=3) for _ in range(3)] == [3] * 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "DenseOperator" in caplog.text
    with pytest.raises(ConfigError) as caught:
        by_family(DenseOperator, ct=1)
    assert "DenseOperator" in str(caught.value.got)


def test_blocks_pass_the_inspection() -> None:
    block = {"_target_": "monai_diffrecon.presets.by_family", "operator": "@operator", "ct": 1}
    require_trusted({"operator": "parallel_ct", "sampler": {"name": "ddim", "steps": block}})


class _Nothing(DenseOperator):
    family = None

    def initial(self, y: Tensor) -> Tensor:
        return self.adjoint(y)


def test_a_measurement_of_another_family_than_the_configuration_is_said() -> None:
    ct = ParallelCT(GEOMETRY, views=3)
    (notice,) = family_notice({"name": "slice_thickness"}, ct)
    assert "ct" in notice.split()
    assert "image" in notice
    assert family_notice({"name": "fan_ct"}, ct) == ()
    matrix = torch.eye(GEOMETRY.shape[0] * GEOMETRY.shape[1] * GEOMETRY.shape[2])
    assert family_notice({"name": "fan_ct"}, _Nothing(GEOMETRY, matrix)) == ()
