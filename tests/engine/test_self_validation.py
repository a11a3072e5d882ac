# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""An option is tuned by what the measurement says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.problem.held_out import HeldOutOperator, held_out_entries, unit_axis
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, NumericalError
from monai_diffrecon.io.measurement.metatensor import to_tensor
from monai_diffrecon.operators import CartesianMRI, ParallelCT, SliceThickness, Unconditional
from monai_diffrecon.protocols import Measurement, Operator, VolumeGeometry

from ..raising import raises
from .resume.test_resumed_reconstruction import Interrupt
from .tiny_networks import SCORE, tiny

GEOMETRY = VolumeGeometry((24, 24, 8))
SPECS: dict[str, dict[str, Any]] = {
    "points": {"name": "cartesian_mri", "acceleration": 2.0},
    "lines": {"name": "cartesian_mri", "acceleration": 2.0, "mask_type": "uniform1d"},
    "views": {"name": "parallel_ct", "views": 12},
    "slices": {"name": "slice_thickness", "thickness": 2.0, "target_spacing": 1.0, "plane": "coronal"},
}
CLASSES = {"cartesian_mri": CartesianMRI, "parallel_ct": ParallelCT, "slice_thickness": SliceThickness}


class Mean(nn.Module):
    """Replaces a slice by its local mean, as far as it is noisy."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        mean = nn.functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        share = (sigma / (sigma + 0.02)).view(-1, 1, 1, 1)
        return share * mean + (1 - share) * x


def operator_of(name: str) -> Operator:
    spec = SPECS[name]
    return CLASSES[spec["name"]](GEOMETRY, **{k: v for k, v in spec.items() if k != "name"})


def smooth_object() -> Tensor:
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in GEOMETRY.shape), indexing="ij")
    return (1.0 + (0.4 - x**2 - y**2).mul(20).sigmoid() + 0.1 * z)[None]


def scan(name: str, noise: float) -> tuple[Tensor, Tensor]:
    """Return the truth and its measurement; the scan does not say how noisy it is."""
    operator, truth = operator_of(name), smooth_object()
    y = operator(truth)
    drawn = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    y = torch.where(measured_entries(operator), y + noise * drawn, y)
    return truth, to_tensor(Measurement(y, GEOMETRY, operator=SPECS[name]))


def measured_entries(operator: Operator) -> Tensor:
    return operator(torch.rand(operator.volume_shape, generator=torch.Generator().manual_seed(2))) != 0


TUNE = {"option": "inferer#noise_std", "values": [1e-4, 0.05, 20.0], "held_out": 0.2}


def maker(name: str, network: nn.Module | None = None, **options: Any) -> DiffReconInferer:
    score = replace(SCORE, network=Mean() if network is None else network)
    sampler = {"name": "pnp_hqs", "steps": 4, "sigma_start": 0.2, "start": {"name": "admm_tv", "iterations": 20}}
    given: dict[str, Any] = {"sampler": sampler, "tune": TUNE, "progress": False}
    return DiffReconInferer(score, SPECS[name], **{**given, **options})


@pytest.mark.parametrize("name", SPECS)
def test_units_are_held_out_as_a_whole(name: str) -> None:
    operator = operator_of(name)
    held, axis = held_out_entries(operator, 0.25, 0, "case")
    measured = measured_entries(operator)
    assert held.shape == tuple(operator.measurement_shape)
    assert not bool((held & ~measured).any()) or axis is not None
    assert axis == unit_axis(operator) == {"views": 0, "slices": 2}.get(name)
    if axis is not None:
        lines = held.movedim(axis, 0).flatten(1)
        assert torch.equal(lines.all(dim=1), lines.any(dim=1))
        assert not bool(lines[0].any() | lines[-1].any())
        assert int(lines.any(dim=1).sum()) == round(0.25 * (len(lines) - 2))
    else:
        assert not bool(held[:, 11:14, 11:14].any())  # zero frequency
        assert torch.equal(held.all(dim=-1), held.any(dim=-1))  # the same in all slices
        if name == "lines":
            assert torch.equal(held.any(dim=1), (held | ~measured).all(dim=1) & measured.any(dim=1))
    again, _ = held_out_entries(operator, 0.25, 0, "case")
    assert torch.equal(held, again)
    assert not torch.equal(held, held_out_entries(operator, 0.25, 1, "case")[0])


@pytest.mark.parametrize("name", SPECS)
def test_an_operator_does_not_see_what_is_held_out(name: str) -> None:
    operator, x = operator_of(name), smooth_object()
    held, axis = held_out_entries(operator, 0.25, 0, "case")
    kept = HeldOutOperator(operator, held, axis)
    torch.testing.assert_close(kept(x), torch.where(held, torch.zeros(()), operator(x)))
    y = operator(x)
    other = torch.where(held, y + 7.0, y)
    assert torch.equal(kept.initial(kept.whiten(y)), kept.initial(kept.whiten(other)))
    u, v = torch.rand(operator.volume_shape), torch.rand(operator.measurement_shape).to(y.dtype)
    torch.testing.assert_close((kept(u).conj() * v).sum().real, (u * kept.adjoint(v)).sum().real, rtol=1e-4, atol=1e-3)


def test_gaps_between_slices_are_interpolated() -> None:
    """Of a volume that is linear along the thick axis nothing is lost."""
    operator = operator_of("slices")
    x = torch.linspace(0, 1, 24).reshape(1, 1, 24, 1).expand(1, 24, 24, 8)
    held, axis = held_out_entries(operator, 0.4, 0, "case")
    assert int(held.any(dim=(0, 1, 3)).sum()) == 4
    kept = HeldOutOperator(operator, held, axis)
    torch.testing.assert_close(kept.initial(kept(x)), operator.initial(operator(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "noise"), [("points", 0.1), ("views", 0.8)])
def test_the_choice_is_the_best_one_by_the_truth(name: str, noise: float) -> None:
    truth, y = scan(name, noise)
    values = [1e-4 * noise, noise, 300 * noise]
    errors = []
    for value in values:
        found = maker(name, tune=None, noise_std=value).reconstruct(y, case="a")
        errors.append(float((found.volume - truth).square().mean()))
    done = maker(name, tune={**TUNE, "values": values}).reconstruct(y, case="a")
    tune = done.report.options["tune"]
    assert tune["chosen"] == values[errors.index(min(errors))] == noise
    assert tune["residuals"].index(min(tune["residuals"])) == 1
    assert (tune["option"], tune["values"]) == ("inferer#noise_std", values)


def test_the_volume_is_that_of_the_chosen_option() -> None:
    _, y = scan("points", 0.2)
    tune = {"option": "consistency#noise_weight", "values": [0.1, 1.0, 30.0], "slices": 4}
    done = maker("points", tune=tune, noise_std=0.2).reconstruct(y, case="a")
    chosen = done.report.options["tune"]["chosen"]
    consistency = {"name": "conjugate_gradient", "noise_weight": chosen}
    same = maker("points", tune=None, noise_std=0.2, consistency=consistency).reconstruct(y, case="a")
    assert torch.equal(done.volume, same.volume)
    assert done.report.options["consistency"] == consistency
    assert "tune" not in done.report.inferer
    assert "tune" not in same.report.options


@pytest.mark.parametrize("name", ["views", "slices"])
def test_a_classical_method_is_tuned_too(name: str) -> None:
    _, y = scan(name, 0.1)
    sampler = {"name": "admm_tv", "iterations": 10}
    tune = {"option": "sampler#threshold", "values": [1e-5, 1e-2, 10.0]}
    done = maker(name, tune=tune, sampler=sampler, consistency="none").reconstruct(y)
    assert done.report.options["sampler"]["threshold"] == done.report.options["tune"]["chosen"] != 10.0


def test_a_nested_option() -> None:
    consistency = {"name": "admm", "regularizers": ["z_tv"]}
    tune = {"option": "consistency#regularizers#0#threshold", "values": [0.001, 0.1]}
    recipe = maker("points", consistency=consistency, tune=tune).recipe
    changed = recipe.candidate(0.1)
    assert changed.specs["consistency"]["regularizers"] == [{"name": "z_tv", "threshold": 0.1}]
    assert changed.tune is None
    assert recipe.specs["consistency"]["regularizers"] == ["z_tv"]


@pytest.mark.slow
def test_an_interrupted_run_does_not_choose_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, y = scan("points", 0.2)
    path, inferer = tmp_path / "c.pt", maker("points")
    whole = inferer.reconstruct(y, case="a")
    with pytest.raises(KeyboardInterrupt):
        inferer.reconstruct(
            y, case="a", handlers=[Interrupt(StepEvents.STEP_COMPLETED, 2)], checkpoint=RunCheckpoint(path, every=1)
        )
    monkeypatch.setattr(
        "monai_diffrecon.engine.self_validation.held_out_residual", lambda *given: pytest.fail("chosen again")
    )
    done = inferer.reconstruct(y, case="a", checkpoint=RunCheckpoint(path, resume="require"))
    assert torch.equal(done.volume, whole.volume)
    assert done.report.options["tune"] == whole.report.options["tune"]


@pytest.mark.parametrize(
    ("tune", "where"),
    [
        ("noise_weight", "inferer#tune"),
        ({"option": "sampler#steps"}, "inferer#tune"),
        ({**TUNE, "fraction": 0.1}, "inferer#tune"),
        ({**TUNE, "option": "operator#acceleration"}, "inferer#tune#option"),
        ({**TUNE, "option": "consistency"}, "inferer#tune#option"),
        ({**TUNE, "option": "consistency#name"}, "inferer#tune#option"),
        ({**TUNE, "option": 3}, "inferer#tune#option"),
        ({**TUNE, "option": "consistency#regularizers#0#threshold"}, "inferer#tune#option"),
        ({**TUNE, "values": [1.0]}, "inferer#tune#values"),
        ({**TUNE, "values": [1.0, 1.0]}, "inferer#tune#values"),
        ({**TUNE, "values": "12"}, "inferer#tune#values"),
        ({**TUNE, "values": [1.0, -1.0]}, "inferer#noise_std"),
        ({**TUNE, "option": "consistency#noise_weight", "values": [1.0, "much"]}, "consistency#noise_weight"),
        ({**TUNE, "option": "consistency#noise_wait"}, "consistency#noise_wait"),
        ({**TUNE, "held_out": 0.0}, "inferer#tune#held_out"),
        ({**TUNE, "held_out": 0.9}, "inferer#tune#held_out"),
        ({**TUNE, "slices": 0}, "inferer#tune#slices"),
    ],
)
def test_wrong_candidates_are_refused_before_a_scan_is_read(tune: Any, where: str) -> None:
    with pytest.raises(DiffReconError) as caught:
        maker("points", tune=tune)
    assert caught.value.where == where
    assert caught.value.exit_code == ConfigError.exit_code


def test_a_weight_of_no_noise_is_refused() -> None:
    _, y = scan("points", 0.0)
    with raises(ConfigError, where="consistency#noise_weight"):
        maker("points", tune={"option": "consistency#noise_weight", "values": [0.5, 2.0]}).reconstruct(y)


def test_nothing_to_hold_out() -> None:
    with raises(InputError, where="inferer#tune"):
        held_out_entries(ParallelCT(GEOMETRY, views=3), 0.1, 0)
    with raises(InputError, where="inferer#tune"):
        held_out_entries(Unconditional(GEOMETRY), 0.1, 0)


class Exploding(nn.Module):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x * float("inf") if float(sigma[0]) > 0.3 else 0.9 * x


def test_a_candidate_that_diverges_is_not_chosen() -> None:
    _, y = scan("views", 0.1)
    options = {"network": Exploding(), "tune": {"option": "sampler#sigma_start", "values": [0.5, 0.1, 0.2]}}
    done = maker("views", **options).reconstruct(y)
    assert done.report.options["tune"]["residuals"][0] is None
    assert done.report.options["tune"]["chosen"] != 0.5
    options["tune"] = {"option": "sampler#sigma_start", "values": [0.5, 0.6]}
    with raises(NumericalError, where="sampler#sigma_start"):
        maker("views", **options).reconstruct(y)


def test_without_the_option_nothing_changes() -> None:
    _, y = scan("points", 0.2)
    inferer = maker("points", network=tiny(0), tune=None)
    assert not any("tune" in name for name in inferer.identity(y))
    assert any("tune" in name for name in maker("points").identity(y))
