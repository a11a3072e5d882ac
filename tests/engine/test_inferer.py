# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.engine.transforms.simulate_measurement import SimulateMeasurementd
from monai_diffrecon.engine.transforms.unconditional_cases import UnconditionalCases
from monai_diffrecon.errors import ConfigError, InputError, PluginError
from monai_diffrecon.io.measurement.metatensor import geometry_of, to_tensor
from monai_diffrecon.operators.slice_thickness import SliceThickness
from monai_diffrecon.protocols import Measurement

from ..raising import raises
from .tiny_networks import CORONAL, SCORE

#: Thick slices of 3 mm behind an oblique affine.
AFFINE = np.array(
    [[1.0, 0, 0, -9], [0, np.cos(0.2), -3 * np.sin(0.2), 5], [0, np.sin(0.2), 3 * np.cos(0.2), 2], [0, 0, 0, 1]]
)

SAMPLER = {"name": "pnp_hqs", "steps": 3, "sigma_start": 0.2}
DDIM = {"name": "ddim", "steps": 3, "sigma_start": 0.5}


class Nothing(nn.Module):
    """A network that believes every voxel."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x


BELIEVER = replace(SCORE, network=Nothing())


def phantom(*shape: int) -> Tensor:
    """Smooth blobs in air, in hundreds."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = sum(a.square() for a in axes)
    return ((radius < 0.8) * (400 + 100 * torch.cos(5 * axes[0]) * torch.cos(4 * axes[2])))[None]


def thick(factor: float = 1.0) -> MetaTensor:
    """Four thick slices, measured from a phantom."""
    truth = phantom(14, 13, 12)
    y = SliceThickness(geometry_of((14, 13, 12)), thickness=3.0)(truth) * factor
    return MetaTensor(y, affine=torch.as_tensor(AFFINE))


def inferer(score: ScoreNetwork = SCORE, **options: Any) -> DiffReconInferer:
    arguments: dict[str, Any] = {"operator": "slice_thickness", "sampler": SAMPLER, "progress": False}
    return DiffReconInferer(score, **{**arguments, **options})


def voxels(maker: DiffReconInferer, measurement: Tensor | None = None, case: str = "") -> Tensor:
    return maker.reconstruct(thick() if measurement is None else measurement, case=case).volume


def test_it_keeps_the_contract_of_monai() -> None:
    batch = torch.stack([thick(), thick(2.0)])
    out = inferer()(inputs=batch, network=SCORE.network)
    assert isinstance(out, MetaTensor)
    assert out.shape == (2, 1, 14, 13, 12)
    single = inferer().reconstruct(thick())
    torch.testing.assert_close(out[0].as_tensor(), single.volume)
    spacing = np.linalg.norm(np.asarray(out[0].affine)[:3, :3], axis=0)
    np.testing.assert_allclose(spacing, (1, 1, 1))
    # The first thin slice starts where the first thick one does: its centre is one thin slice above.
    np.testing.assert_allclose(np.asarray(out[0].affine) @ [0, 0, 1, 1], AFFINE @ [0, 0, 0, 1], atol=1e-9)
    with raises(ConfigError, where="inferer", got=["mode"]):
        inferer()(batch, SCORE.network, mode="fast")


def test_the_network_it_is_called_with_is_the_one_it_uses() -> None:
    own, other = (inferer().reconstruct(thick(), network).volume for network in (None, CORONAL.network))
    assert torch.equal(own, inferer().reconstruct(thick(), SCORE.network).volume)
    assert not torch.allclose(own, other)


def test_it_fits_the_measurement_and_believes_its_network_elsewhere() -> None:
    done = inferer().reconstruct(thick())
    operator = SliceThickness(done.geometry, thickness=3.0)
    assert done.report.steps[-1]["residual"] < 1e-3
    torch.testing.assert_close(operator(done.volume), thick().as_tensor(), rtol=1e-2, atol=1.0)
    assert not torch.allclose(done.volume, operator.initial(thick().as_tensor()), atol=1.0)


def test_the_residual_falls() -> None:
    steps = inferer(sampler={**DDIM, "steps": 6, "eta": 0.0}).reconstruct(thick()).report.steps
    assert steps[-1]["residual"] < 0.1 * steps[0]["residual"]


def test_same_seed_same_voxels() -> None:
    first = voxels(inferer(sampler=DDIM, seed=1), case="a")
    assert torch.equal(first, voxels(inferer(sampler=DDIM, seed=1), case="a"))
    assert not torch.allclose(first, voxels(inferer(sampler=DDIM, seed=2), case="a"))
    assert not torch.allclose(first, voxels(inferer(sampler=DDIM, seed=1), case="b"))


@pytest.mark.parametrize("size", [1, 5, 64])
def test_the_batch_size_does_not_matter(size: int) -> None:
    done = inferer(sw_batch_size=size).reconstruct(thick())
    torch.testing.assert_close(done.volume, voxels(inferer()), rtol=1e-4, atol=0.02)
    assert done.report.network_calls == 3 * -(-12 // size)
    assert done.report.denoiser_calls == 3


def test_the_window_of_the_bundle_and_of_the_user() -> None:
    calls = [
        inferer(replace(SCORE, window=(8, 8)), window=window).reconstruct(thick()).report.network_calls
        for window in (None, (14, 13))
    ]
    assert calls[0] > calls[1] == 3 * 2


@pytest.mark.parametrize("factor", [1e-3, 50.0])
def test_units_of_intensity_do_not_matter(factor: float) -> None:
    torch.testing.assert_close(
        voxels(inferer(), thick(factor)), factor * voxels(inferer()), rtol=1e-3, atol=0.05 * factor
    )


def test_a_window_of_intensities_with_an_offset() -> None:
    score = replace(BELIEVER, intensity={"map": "window", "low": -1000.0, "high": 1000.0})
    measurement = thick().as_tensor() - 1000.0
    scan = MetaTensor(measurement, affine=torch.as_tensor(AFFINE))
    done = inferer(score).reconstruct(scan)
    assert (done.report.scale, done.report.offset) == (2000.0, -1000.0)
    operator = SliceThickness(done.geometry, thickness=3.0)
    torch.testing.assert_close(operator(done.volume), measurement, rtol=1e-2, atol=1.0)
    classical = inferer(score, sampler="initial").reconstruct(scan).volume
    torch.testing.assert_close(classical, operator.initial(measurement), rtol=1e-4, atol=0.05)


def test_double_precision_and_integers_are_taken() -> None:
    whole = MetaTensor(thick().as_tensor().round(), affine=torch.as_tensor(AFFINE))
    expected = voxels(inferer(), whole)
    for dtype in (torch.float64, torch.int16):
        assert torch.equal(voxels(inferer(), whole.to(dtype)), expected)
    assert expected.dtype == torch.float32


def test_a_second_plane() -> None:
    prior = {"name": "perpendicular", "K": 2}
    done = inferer(prior=prior, auxiliaries=[CORONAL]).reconstruct(thick())
    assert done.report.weights == {"axial_bundle 1.2": "0" * 64, "coronal_bundle 1.2": "1" * 64}
    assert not torch.allclose(done.volume, voxels(inferer()), atol=0.1)
    # 2 of 3 steps are the primary's 12 slices, 1 is the auxiliary's 13, in batches of 8.
    assert done.report.network_calls == 2 * 2 + 2
    with raises(ConfigError, where="prior", got="1 (axial)"):
        voxels(inferer(prior=prior))
    with raises(ConfigError, where="auxiliary_bundle", got="axial, axial"):
        voxels(inferer(prior=prior, auxiliaries=[replace(CORONAL, plane="axial")]))


def test_the_report_says_what_was_done() -> None:
    consistency = {"name": "admm", "regularizers": [{"name": "z_tv", "threshold": 0.01}]}
    report = inferer(consistency=consistency, seed=7).reconstruct(thick()).report
    assert report.options["operator"] == {"name": "slice_thickness", "thickness": pytest.approx(3), "target_spacing": 1}
    assert report.options["consistency"] == consistency
    assert report.options["sampler"] == SAMPLER
    assert report.seed == 7
    assert report.ladder[0] == pytest.approx(0.2)
    assert len(report.steps) == len(report.ladder) == 3
    assert report.distributions == ("monai-diffrecon",)
    assert 0 < report.start_seconds + report.denoiser_seconds < report.seconds


@pytest.mark.parametrize("sampler", ["cubic", "initial", {"name": "admm_tv", "iterations": 2}])
def test_a_classical_method_needs_no_network(sampler: Any) -> None:
    done = inferer(replace(SCORE, spacing=(4.0, 4.0)), sampler=sampler, prior="perpendicular").reconstruct(thick())
    assert done.report.network_calls == 0
    assert done.report.weights == {}
    assert done.report.ladder == ()
    assert float(done.volume.max()) > 300


def test_voxels_of_another_size_are_refused() -> None:
    score = replace(SCORE, spacing=(1.0, 1.2))
    with raises(ConfigError, where="bundle axial_bundle", got="1 x 1 mm"):
        voxels(inferer(score))
    assert voxels(inferer(score, spacing_tolerance=0.3)).shape == (1, 14, 13, 12)
    # The volume's own spacing counts for a perpendicular plane, not that of the thick slices.
    with raises(ConfigError, where="bundle coronal_bundle", got="1 x 1.5 mm"):
        voxels(
            inferer(
                operator={"name": "slice_thickness", "target_spacing": 1.5},
                prior="perpendicular",
                auxiliaries=[CORONAL],
            )
        )


@pytest.mark.parametrize(
    ("options", "where", "nearest"),
    [
        ({"sampler": {"name": "pnp_hqs", "stepz": 3}}, "sampler#stepz", "steps"),
        ({"operator": {"name": "slice_thickness", "thicknes": 3}}, "operator#thicknes", "thickness"),
        ({"prior": {"name": "perpendicular", "k": 3}}, "prior#k", None),
        ({"consistency": {"name": "conjugate_gradient", "gama": 1}}, "consistency#gama", "gamma"),
        (
            {"consistency": {"name": "admm", "regularizers": [{"name": "z_tv", "treshold": 1}]}},
            "consistency#regularizers#0#treshold",
            "threshold",
        ),
    ],
)
def test_a_mistyped_option_is_an_error_at_once(options: dict[str, Any], where: str, nearest: str | None) -> None:
    with raises(ConfigError, where=where, mend=nearest and f"did you mean {nearest!r}?"):
        inferer(**options)


def test_a_mistyped_plugin_is_an_error_at_once() -> None:
    with raises(PluginError, where="sampler", mend="did you mean 'pnp_hqs'?"):
        inferer(sampler="pnp_hq")


def test_a_regularizer_is_no_prior() -> None:
    with raises(ConfigError, where="prior") as caught:
        inferer(prior="z_tv")
    assert '"regularizers": [{"name": "z_tv"}]' in caught.value.mend


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_a_measurement_must_be_finite(value: float) -> None:
    measurement = thick()
    measurement[0, 3, 3, 1] = value
    with raises(InputError, where="inputs", mend="repair the measurement"):
        voxels(inferer(), measurement)


def test_a_measurement_of_the_wrong_shape() -> None:
    operator = {"name": "slice_thickness", "thickness": 4.0}
    wrong = to_tensor(Measurement(thick().as_tensor(), geometry_of((14, 13, 12)), operator))
    with raises(InputError, where="operator slice_thickness", got=(1, 14, 13, 4)):
        voxels(inferer(operator=operator), wrong)
    with raises(InputError, where="inputs", got=(14, 13, 4)):
        voxels(inferer(), thick()[0])


def test_a_measurement_brings_its_operator() -> None:
    operator = {"name": "slice_thickness", "thickness": 4.0}
    measured = to_tensor(Measurement(thick().as_tensor(), geometry_of((14, 13, 16)), operator))
    other = inferer(operator={"name": "parallel_ct", "views": 8})
    assert torch.equal(voxels(other, measured), voxels(inferer(operator=operator), measured))


def test_an_operator_whose_measurement_is_no_image_needs_its_geometry() -> None:
    with raises(InputError, where="operator"):
        voxels(inferer(operator={"name": "parallel_ct", "views": 8}), torch.ones(1, 8, 20, 5))


@pytest.mark.parametrize(
    "operator",
    [
        {"name": "cartesian_mri", "mask_type": "gaussian1d", "acceleration": 2},
        {"name": "cartesian_mri", "mask_type": "gaussian1d", "acceleration": 2, "complex_volume": True},
        {"name": "parallel_ct", "views": 12},
    ],
    ids=["mri", "complex mri", "ct"],
)
def test_simulated_tasks(operator: dict[str, Any]) -> None:
    truth = phantom(16, 14, 5)
    if operator.get("complex_volume"):
        truth = truth * torch.exp(1j * torch.linspace(0, 1, 16))[:, None, None]
    data = SimulateMeasurementd(["image"], operator, noise=0.01)({"image": MetaTensor(truth)})
    maker = inferer(BELIEVER, operator=operator, sampler={**SAMPLER, "start": {"name": "admm_tv", "iterations": 40}})
    done = maker.reconstruct(data["image"])
    assert done.volume.is_complex() == truth.is_complex()
    start = inferer(BELIEVER, operator=operator, sampler="initial").reconstruct(data["image"]).volume
    errors = [float((v - truth).abs().square().mean()) for v in (done.volume, start)]
    assert errors[0] < 0.8 * errors[1]


def test_the_noise_level_is_the_measurements_unless_the_user_says_another() -> None:
    operator = {"name": "slice_thickness", "thickness": 3.0}
    noisy = SimulateMeasurementd(["image"], operator, noise=0.1)({"image": MetaTensor(phantom(14, 13, 12))})["image"]
    residuals = {
        std: inferer(BELIEVER, operator=operator, noise_std=std).reconstruct(noisy).report.steps[-1]["residual"]
        for std in (None, 0.0, 200.0)
    }
    # The more noise, the less the measurement is believed.
    assert residuals[0.0] < residuals[None] < residuals[200.0]


def test_further_handlers_are_attached() -> None:
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def attach(self, engine: Any) -> None:
            engine.add_event_handler(StepEvents.STEP_COMPLETED, lambda: setattr(self, "count", self.count + 1))

    always, once = Counter(), Counter()
    maker = inferer(handlers=[always])
    maker.reconstruct(thick(), handlers=[once])
    maker.reconstruct(thick())
    assert (always.count, once.count) == (6, 3)


def test_half_precision_is_near_and_keeps_the_type() -> None:
    full, half = voxels(inferer()), voxels(inferer(precision="bfloat16"))
    assert half.dtype == full.dtype == torch.float32
    assert 0 < float((half - full).abs().max()) < 0.05 * float(full.abs().max())
    with raises(ConfigError, where="inferer#precision", got="'half'"):
        inferer(precision="half")


def test_a_plane_that_shares_a_network_is_checked_and_counted() -> None:
    coronal = replace(SCORE, plane="coronal")
    spec = {"name": "perpendicular", "share": {"sagittal": "coronal"}}
    done = inferer(coronal, prior=spec).reconstruct(thick())
    alone = inferer(coronal).reconstruct(thick())
    assert not torch.equal(done.volume, alone.volume)
    assert done.report.network_calls == alone.report.network_calls  # 14 and 13 slices are two batches of 8 each
    narrow = MetaTensor(thick().as_tensor(), affine=torch.diag(torch.tensor([1.0, 1.5, 4.0, 1.0])))
    inferer(coronal).reconstruct(narrow)
    with raises(ConfigError, where="bundle axial_bundle", got="1.5 x 1 mm"):
        inferer(coronal, prior=spec).reconstruct(narrow)


@pytest.mark.parametrize("sampler", ["ddim", "heun", "predictor_corrector"])
def test_samples_without_a_measurement(sampler: str) -> None:
    cases = UnconditionalCases([14, 13, 12], count=2)
    maker = inferer(
        operator="unconditional", consistency="none", sampler={"name": sampler, "steps": 3}, prior={"name": "slices"}
    )
    first, second = (maker.reconstruct(case["image"], case=case["case"]) for case in cases)
    assert first.volume.shape == (1, 14, 13, 12)
    assert not torch.allclose(first.volume, second.volume)
    assert (first.report.scale, first.report.offset) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("options", "where"),
    [({"shape": [3, 4]}, "shape"), ({"shape": [3, 0, 4]}, "shape"), ({"shape": [3, 3, 3], "count": 0}, "count")],
)
def test_cases_that_cannot_be_sampled(options: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        UnconditionalCases(**options)
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("options", "where"),
    [
        *(({"seed": v}, "seed") for v in ("3", None, 1.5, True, [1], -1)),
        *(({"sw_batch_size": v}, "inferer#sw_batch_size") for v in (0, "8", None, 2.0, {})),
        *(({"overlap": v}, "inferer#overlap") for v in (1.0, -0.1, "0.25", None, float("nan"))),
        *(({"noise_std": v}, "inferer#noise_std") for v in (-1.0, "auto", [0.1], float("inf"))),
        *(({"spacing_tolerance": v}, "inferer#spacing_tolerance") for v in (-1, "5%", None)),
        *(({"window": v}, "inferer#window") for v in (64, "64x64", [64, 64, 64], {})),
        *(({"window": v}, "inferer#window#1") for v in ([64], [64, 0], [64, 1.5])),
        *(({"device": v}, "inferer#device") for v in ("gpu", "", ["cpu"], {})),
    ],
    ids=repr,
)
def test_an_option_of_the_wrong_type_is_refused_before_a_scan_is_read(options: dict[str, Any], where: str) -> None:
    with raises(ConfigError, where=where):
        inferer(**options)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda subject: pickle.loads(pickle.dumps(subject))])
def test_an_inferer_can_be_copied_and_pickled(again: Callable[[Any], Any]) -> None:
    subject = inferer(sampler=SAMPLER, seed=3)
    other = again(subject)
    assert dict(other.specs) == dict(subject.specs)
    with pytest.raises(TypeError):
        other.specs["sampler"] = "heun"
    other.seed = 4
    assert (subject.seed, other.seed) == (3, 4)
    assert torch.equal(again(subject).reconstruct(thick()).volume, subject.reconstruct(thick()).volume)
