# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Every registered plugin, made by the registry, obeys the laws of its kind.

A new built-in plugin needs an entry in CONFIGURATIONS; without one these tests fail.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.executors import SerialExecutor
from monai_diffrecon.io import OMEZarrWriter
from monai_diffrecon.io.measurement.file import write_measurement
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.protocols import (
    ConsistencyStep,
    Measurement,
    MeasurementReader,
    PhantomMetric,
    Problem,
    SamplerState,
    VolumeGeometry,
    VolumeOrigin,
)
from monai_diffrecon.registry import PluginInfo
from monai_diffrecon.testing.consistency_laws import check_consistency
from monai_diffrecon.testing.denoiser_laws import check_denoiser
from monai_diffrecon.testing.execution.executor_laws import check_executor
from monai_diffrecon.testing.execution.runtime_laws import check_runtime
from monai_diffrecon.testing.gaussian_prior import GaussianPrior
from monai_diffrecon.testing.metric_laws import check_metric
from monai_diffrecon.testing.noise_laws import check_noise
from monai_diffrecon.testing.operator_laws import check_operator
from monai_diffrecon.testing.phantom_metric_laws import check_phantom_metric
from monai_diffrecon.testing.prior_laws import check_prior
from monai_diffrecon.testing.reader_laws import check_reader
from monai_diffrecon.testing.regularizer_laws import check_regularizer
from monai_diffrecon.testing.sampler_laws import check_sampler
from monai_diffrecon.testing.writer_laws import check_writer

BUILT_IN = "monai-diffrecon"
GEOMETRY = VolumeGeometry((6, 5, 8), (1.0, 1.2, 0.9))
SQUARE = VolumeGeometry((6, 6, 8), (1.2, 1.2, 0.9))
Z_TV = {"name": "z_tv", "threshold": 0.02}
QUALITY = (
    *("lesion_survival", "detectability", "task_transfer", "point_transfer", "line_pairs"),
    *("noise_power", "false_lesions", "null_space", "ring_correlation"),
)


def _askew(degrees: tuple[float, ...], start: tuple[float, ...], spacing: tuple[float, ...]) -> list[list[float]]:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * spacing
    affine[:3, 3] = start
    return affine.tolist()


COILS = torch.randn((2, *GEOMETRY.shape), generator=torch.Generator().manual_seed(5), dtype=torch.complex64)
#: Two thick scans, askew to the volume and to each other, and how each of their slices moved.
STACKS = [
    {
        "shape": [5, 6, 2],
        "affine": _askew((3, 2, -4), (0.4, 0.1, 1.0), (1.0, 1.0, 2.5)),
        "plane": "axial",
        "thickness": 2.0,
    },
    {
        "shape": [2, 4, 5],
        "affine": _askew((-3, 5, 4), (1.0, 0.6, 0.2), (3.0, 2.0, 1.2)),
        "plane": "sagittal",
        "thickness": 3.0,
    },
]
MOVED = torch.stack([torch.tensor(_askew((n, -n, 2), (0.3 * n, 0.2, -0.1 * n), (1.0, 1.0, 1.0))) for n in range(4)])

#: (kind, name) -> the options to check a plugin with, beside those that the framework gives.
CONFIGURATIONS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("denoisers", "direct"): [{}, {"sigma_min": 0.01, "sigma_max": 50.0}],
    ("denoisers", "edm"): [{}, {"sigma_data": 0.3}],
    ("denoisers", "ve_score"): [{"sigma_max": 50.0}],
    ("denoisers", "ddpm"): [
        {"prediction_type": kind, "data_range": [-1.0, 1.0], "timesteps": timesteps, "sigma_max": 10.0}
        for kind, timesteps in (("epsilon", "nearest"), ("v_prediction", "interpolated"), ("sample", "nearest"))
    ],
    ("runtimes", "torch"): [{}],
    ("runtimes", "openvino"): [{}],
    ("priors", "slices"): [{}],
    ("priors", "perpendicular"): [{}, {"K": 3}, {"K": 2.7}, {"K": "average"}],
    ("priors", "perpendicular_neighbours"): [{}, {"width": 0.0}, {"K": "average", "widest": 2.0}],
    ("regularizers", "z_tv"): [{}, {"plane": "coronal", "boundary": "periodic"}],
    ("regularizers", "wavelet_l1"): [{}, {"wavelet": "haar", "level": 1}],
    ("operators", "slice_thickness"): [
        {"thickness": 2.0},
        {"thickness": 1.5, "gap": 0.5, "profile": "gaussian", "plane": "coronal"},
    ],
    ("operators", "stacks"): [
        {"stacks": STACKS},
        {"stacks": STACKS, "profile": "gaussian", "poses": MOVED},
        {"stacks": STACKS, "memory_limit_gb": 0.0},
    ],
    ("operators", "parallel_ct"): [
        {"views": 5},
        {"angles": [3.0, 50.0, 170.0], "filter": "hann"},
        {"views": 4, "arc": 360.0, "detector_offset": 0.25},
        {"views": 4, "memory_limit_gb": 3e-6},
    ],
    ("operators", "fan_ct"): [
        {"views": 5, "source_distance": 20.0, "detector_distance": 35.0},
        {"views": 6, "arc": 250.0, "detector": "curved", "source_distance": 12.0, "detector_distance": 30.0},
    ],
    ("operators", "rotation_ct"): [
        {"views": 5, "geometry": SQUARE},
        {"angles": [0.0, 1.0, 2.0], "geometry": SQUARE},
    ],
    ("operators", "cartesian_mri"): [
        {"acceleration": 3.0},
        {"acceleration": 2.0, "mask_type": "gaussian1d", "complex_volume": True},
        {"acceleration": 2.0, "coil_maps": COILS},
    ],
    ("operators", "cartesian_mri_3d"): [
        {"acceleration": 2.0, "readout": "axial", "partial_fourier": 0.8},
        {"acceleration": 2.0, "coil_maps": COILS, "complex_volume": True},
    ],
    ("operators", "noncartesian_mri"): [
        {"spokes": 5},
        {"pattern": "spiral", "coil_maps": COILS, "complex_volume": True},
    ],
    ("operators", "cone_beam_ct"): [
        {"views": 5, "source_distance": 20.0, "detector_distance": 35.0},
        {
            "views": 6,
            "arc": 500.0,
            "pitch": 6.0,
            "source_distance": 20.0,
            "detector_distance": 35.0,
            "detectors": [9, 7],
        },
        {
            "views": 4,
            "source_distance": 20.0,
            "detector_distance": 35.0,
            "detectors": [9, 7],
            "detector_offset": [3.0, 0.0],
            "deviations": {"in_plane_angle": [1.0, -1.0, 0.5, 0.0], "source_offset_y": 0.3},
        },
    ],
    ("operators", "unconditional"): [{}],
    ("consistency", "none"): [{}],
    ("consistency", "conjugate_gradient"): [{}, {"iterations": 2, "gamma": 0.1}, {"correlation": 0.7}],
    ("consistency", "conservative"): [{}, {"size": 0.0, "bound": 2.0, "correlation": 0.7}],
    ("consistency", "admm"): [{}, {"regularizers": [Z_TV, {**Z_TV, "plane": "coronal"}], "iterations": 2}],
    ("consistency", "admm_iterate"): [
        {"regularizers": [Z_TV]},
        {"regularizers": [Z_TV, {**Z_TV, "plane": "coronal"}], "iterations": 2, "cg_iterations": 3, "final_sirt": True},
    ],
    ("consistency", "dps"): [{}, {"norm": "batch", "batch_size": 3}, {"plane": "coronal", "relative": False}],
    ("consistency", "published_dps"): [{}, {"norm": "batch", "batch_size": 3}],
    ("readers", "nifti"): [{}],
    ("readers", "measurement_file"): [{}],
    ("readers", "dicom"): [{}, {"series": 1}],
    ("readers", "dxchange"): [
        {"center": 4.0},
        {"center": 3.5, "rows": [1, 3], "views": 4, "binning": 2, "pixel_size": 0.1},
    ],
    ("readers", "metaimage"): [{}],
    ("readers", "nrrd"): [{}],
    ("readers", "nibabel"): [{}],
    **{("writers", name): [{}] for name in ("nifti", "dicom", "metaimage", "nrrd", "ome_zarr")},
    ("readers", "rtk_projections"): [{}, {"flat": 6e4, "dark": 100.0, "binning": 2}],
    ("readers", "projections"): [{}, {"rows": [1, 3], "views": 4, "binning": 2, "rings": True}],
    ("readers", "dicom_ct_pd"): [{}, {"views": 4, "slice_spacing": 2.0, "slices": [0, 2]}],
    **{("metrics", name): [{}] for name in ("psnr", "ssim", "nmse", "mae", "vif")},
    **{("metrics", name): [{}] for name in QUALITY},
    ("noises", "independent"): [{}],
    ("noises", "slerp"): [{}, {"plane": "coronal"}],
    ("noises", "sequential"): [{}],
    ("executors", "serial"): [{}],
    ("executors", "processes"): [{"workers": 2}],
    ("executors", "dask"): [{"cluster": "local", "workers": 2}],
    ("samplers", "initial"): [{}],
    ("samplers", "cubic"): [{}],
    ("samplers", "admm_tv"): [{"iterations": 3}, {"iterations": 3, "isotropic": False, "nonnegative": True}],
    ("samplers", "sirt"): [{"iterations": 3}, {"iterations": 3, "relaxation": 1.5, "nonnegative": True}],
    ("samplers", "cg_least_squares"): [{"iterations": 3}, {"iterations": 3, "weight": 0.1}],
    ("samplers", "pnp_hqs"): [{"steps": 3}, {"steps": 3, "start": {"name": "admm_tv", "iterations": 2}}],
    ("samplers", "ddim"): [{"steps": 3}, {"steps": 3, "start": "initial", "sigma_start": "estimate", "eta": 0.0}],
    ("samplers", "predictor_corrector"): [
        {"steps": 3},
        {"steps": 3, "order": "predictor_corrector", "ladder": "karras"},
        {"steps": 4, "corrector_steps": 2, "final_mean": False},
    ],
    ("samplers", "published_predictor_corrector"): [
        {"steps": 3, "order": "predictor_corrector", "langevin_norm": "batch", "batch_size": 3, "carry": "mean"},
        {"steps": 4, "start": "measured", "unseen": "zero", "corrector_steps": 2, "final_mean": False},
    ],
    ("samplers", "heun"): [{"steps": 3, "S_churn": 1.0}, {"steps": 3, "ladder": "geometric"}],
}


class Network(nn.Module):
    """Takes slices and a noise level as every adapter hands them over, and uses both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x: Tensor, level: Tensor | None = None, timesteps: Tensor | None = None) -> Tensor:
        level = timesteps if level is None else level
        assert level is not None
        return self.conv(x) / (2.0 + level.reshape(-1, 1, 1, 1).abs())


def problem() -> Problem:
    """Return thick slices with noise: every sampler, interpolation too, can work with them."""
    operator = registry.create("operators", f"{BUILT_IN}:slice_thickness", geometry=GEOMETRY, thickness=1.8)
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(operator.volume_shape, generator=generator)
    noise = torch.randn(operator.measurement_shape, generator=generator)
    return Problem(operator, operator(truth) + 0.05 * noise, 0.05)


def complex_problem() -> Problem:
    """Return k-space of coils, with noise, of a complex volume."""
    options = {"acceleration": 2.0, "coil_maps": COILS, "complex_volume": True, "geometry": GEOMETRY}
    operator = registry.create("operators", f"{BUILT_IN}:cartesian_mri", **options)
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(operator.volume_shape, generator=generator, dtype=torch.complex64)
    y = operator(truth)
    return Problem(operator, y + 0.05 * (y != 0) * torch.randn(y.shape, generator=generator, dtype=y.dtype), 0.05)


def refuses_complex(info: PluginInfo, options: dict[str, Any]) -> bool:
    """Say whether a plugin must refuse complex volumes: a sign, or sums of rows, they do not have."""
    return info.name in ("sirt", "cubic") or bool(options.get("nonnegative") or options.get("final_sirt"))


def scan(reader: MeasurementReader, folder: Path) -> Path | None:
    """Write a scan for a reader; None when that takes more than a few lines, and its own tests have examples."""
    y = problem()
    if type(reader).__name__ == "NIfTIReader":
        write_volume(folder / "scan.nii.gz", y.measurement, y.operator.measured_geometry())
        return folder / "scan.nii.gz"
    if type(reader).__name__ in ("MetaImageReader", "NRRDReader"):
        writer = registry.create("writers", "nrrd" if type(reader).__name__ == "NRRDReader" else "metaimage")
        geometry = y.operator.measured_geometry()
        return Path(writer.write(folder / f"scan{writer.suffix}", y.measurement, geometry, VolumeOrigin("scan"))[0])
    if type(reader).__name__ == "NibabelReader":
        nib.MGHImage(y.measurement[0].numpy(), np.eye(4)).to_filename(folder / "scan.mgz")
        return folder / "scan.mgz"
    if type(reader).__name__ == "MeasurementFileReader":
        spec = {"name": "slice_thickness", "thickness": 1.8}
        write_measurement(folder / "scan.h5", Measurement(y.measurement, GEOMETRY, spec, 0.05))
        return folder / "scan.h5"
    if type(reader).__name__ == "DXchangeReader":
        with h5py.File(folder / "scan.h5", "w") as file:
            file["exchange/data"] = np.arange(200, 440, dtype=np.uint16).reshape(6, 4, 10)
            file["exchange/data_white"] = np.full((2, 4, 10), 500, dtype=np.uint16)
            file["exchange/data_dark"] = np.full((2, 4, 10), 100, dtype=np.uint16)
            file["exchange/theta"] = np.arange(6) * 30.0
        return folder / "scan.h5"
    if type(reader).__name__ == "ProjectionsReader":
        np.save(folder / "lines.npy", np.arange(240.0).reshape(6, 4, 10))
        said = {
            "projections": "lines.npy",
            "values": "line_integrals",
            "angles": {"first": 0, "last": 150},
            "center": 4,
        }
        (folder / "scan.json").write_text(json.dumps(said), encoding="utf-8")
        return folder / "scan.json"
    return None


def read_ome_zarr(path: Path) -> tuple[Tensor, VolumeGeometry]:
    """Return the finest level of what the writer has written, and where its own attribute says that it lies."""
    import zarr

    group = zarr.open_group(next(path.glob("*.ome.zarr")), mode="r")
    voxels = torch.from_numpy(np.ascontiguousarray(group["0"][:].transpose(2, 1, 0)))[None]
    return voxels, geometry_of(voxels.shape[1:], np.array(group.attrs["monai_diffrecon"]["affine"]))


def check(kind: str, make: Callable[..., Any], problem: Callable[[], Problem], dtype: torch.dtype) -> None:
    """Run the law kit of a kind on what ``make`` returns, with a problem whose volumes are of a type."""
    if kind == "operators":
        check_operator(make())
    elif kind == "denoisers":
        check_denoiser(make(network=Network().eval()))
    elif kind == "runtimes":
        runtime = make()
        if type(runtime).__name__ == "OpenVINORuntime" and find_spec("openvino") is None:
            with pytest.raises(ConfigError):
                check_runtime(runtime)
        else:
            check_runtime(runtime)
    elif kind == "priors":
        check_prior(make)
    elif kind == "regularizers":
        check_regularizer(make(), GEOMETRY, dtype=dtype)
    elif kind == "consistency":
        p = problem()
        x0 = torch.rand(p.operator.volume_shape, generator=torch.Generator().manual_seed(2)) + 1.0
        x0 = x0.to(p.operator.volume_dtype)
        acts_on_estimate = type(make()).on_estimate is not ConsistencyStep.on_estimate
        check_consistency(make, p, x0, reduces_residual=acts_on_estimate)
    elif kind == "noises":
        check_noise(make)
    elif kind == "writers":
        with TemporaryDirectory() as folder:
            if not isinstance(make(), OMEZarrWriter):
                check_writer(make(), Path(folder))
            elif find_spec("zarr") is not None:
                check_writer(make(), Path(folder), read_ome_zarr)
    elif kind == "metrics":
        if make().name == "vif" and find_spec("torchmetrics") is None:
            with pytest.raises(ConfigError):
                check_metric(make)
        elif isinstance(make(), PhantomMetric):
            check_phantom_metric(make)
        else:
            check_metric(make)
    elif kind == "executors":
        with TemporaryDirectory() as folder:
            check_executor(make, None if isinstance(make(), SerialExecutor) else Path(folder))
    elif kind == "readers":
        with TemporaryDirectory() as folder:
            check_reader(make(), Path(folder), scan(make(), Path(folder)))
    else:
        step = functools.partial(registry.create, "consistency", f"{BUILT_IN}:conjugate_gradient")
        check_sampler(make, problem(), GaussianPrior().denoise, step)


def configurations(info: PluginInfo) -> list[dict[str, Any]]:
    """Return the options to check a plugin with; a built-in without any is a failure."""
    found = CONFIGURATIONS.get((info.kind, info.name))
    if found:
        return found
    if info.distribution == BUILT_IN:
        pytest.fail(f"{info.kind} {info.name} has no entry in CONFIGURATIONS: add one, so that its laws are checked")
    pytest.skip(f"{info.name} of {info.distribution} is checked where it is developed")


#: Plugins that start clusters.
SLOW = {"dask"}


@pytest.mark.parametrize(
    "info",
    [pytest.param(info, marks=[pytest.mark.slow] if info.name in SLOW else []) for info in registry.available()],
    ids=lambda info: f"{info.kind}-{info.distribution}:{info.name}",
)
def test_laws(info: PluginInfo) -> None:
    given = {"geometry": GEOMETRY} if info.kind == "operators" else {}
    for options in configurations(info):
        options = {**given, **options}
        make = functools.partial(registry.create, info.kind, f"{info.distribution}:{info.name}", **options)
        try:
            check(info.kind, make, problem, torch.float64)
        except AssertionError as error:
            raise AssertionError(f"with the options {options}: {error}") from error


@pytest.mark.parametrize(
    "info",
    [info for info in registry.available() if info.kind in ("priors", "regularizers", "consistency", "samplers")],
    ids=lambda info: f"{info.kind}-{info.distribution}:{info.name}",
)
def test_complex_volumes(info: PluginInfo) -> None:
    """They obey the same laws, or are refused in one line."""
    for options in configurations(info):
        make = functools.partial(registry.create, info.kind, f"{info.distribution}:{info.name}", **options)
        if refuses_complex(info, options):
            with pytest.raises(ConfigError) as caught:
                check(info.kind, make, complex_problem, torch.complex128)
            assert "\n" not in str(caught.value)
            continue
        try:
            check(info.kind, make, complex_problem, torch.complex128)
        except AssertionError as error:
            raise AssertionError(f"with the options {options}: {error}") from error


class Subnormals(TorchDispatchMode):
    """Notes the operations that are given subnormal numbers, which processors compute many times more slowly."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Not of copies, which may take memory that nothing was written to.
        computes = any(word in func.name() for word in ("mm", "mul", "add", "sub", "div", "fft", "conv", "segment"))
        for x in tree_leaves((args, kwargs)) if computes else ():
            if isinstance(x, Tensor) and x.dtype in (torch.float32, torch.complex64):
                size = (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).abs()
                if bool(((size > 0) & (size < torch.finfo(torch.float32).tiny)).any()):
                    self.found.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "info",
    [info for info in registry.available() if info.kind in ("operators", "consistency")],
    ids=lambda info: f"{info.kind}-{info.distribution}:{info.name}",
)
def test_nothing_computes_with_subnormal_numbers(info: PluginInfo) -> None:
    """On axes long enough for the tails of a filter to vanish."""
    longer = VolumeGeometry((7, 6, 96))
    for options in configurations(info):
        if "coil_maps" in options:
            continue
        geometry = options.get("geometry", longer)
        name = f"{info.distribution}:{info.name}"
        if info.kind == "operators":
            operator, step = registry.create("operators", name, **{"geometry": geometry, **options}), None
        else:
            operator = registry.create("operators", "slice_thickness", geometry=longer, thickness=3.0)
            step = registry.create("consistency", name, **options)
        x = torch.rand(operator.volume_shape, generator=torch.Generator().manual_seed(3)) + 0.5
        x = x.to(operator.volume_dtype)
        with Subnormals() as mode:
            y = operator(x)
            operator.normal(x)
            if y.numel():
                operator.initial(y)
            if step is not None:
                step.bind(Problem(operator, y, 0.01), registry.create("noises", "independent"))
                state = SamplerState(x=x, sigma=0.1)
                step.on_iterate(step.on_estimate(x, state), state)
        assert not mode.found, options


def test_every_built_in_has_an_entry_and_every_entry_a_plugin() -> None:
    """Also fails when the package is not installed, and the registry therefore empty."""
    built_in = {(info.kind, info.name) for info in registry.available() if info.distribution == BUILT_IN}
    assert built_in == CONFIGURATIONS.keys() - registry.KNOWN_PROVIDERS.keys()


def test_a_new_built_in_without_an_entry_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="operators radon has no entry in CONFIGURATIONS"):
        configurations(PluginInfo("radon", "operators", BUILT_IN, "0.1.0"))
    with pytest.raises(pytest.skip.Exception, match="checked where it is developed"):
        configurations(PluginInfo("radon", "operators", "someone-else", "0.1.0"))
