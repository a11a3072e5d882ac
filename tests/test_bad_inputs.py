# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What users hand in by mistake, through the bundle's command: one line that says what, where and how to mend it."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, IntegrityError, PluginError
from monai_diffrecon.errors.uncaught import chain_of
from monai_diffrecon.io.measurement.file import write_measurement
from monai_diffrecon.io.measurement.hdf5_parts import sha256_array
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.protocols import Measurement

SHAPE = (16, 14, 12)
GEOMETRY = geometry_of(SHAPE)
CT = {"name": "parallel_ct", "views": 6, "detectors": 24}
THICK = {"name": "slice_thickness", "thickness": 3.0}
MRI = {"name": "cartesian_mri", "mask_type": "gaussian1d", "acceleration": 2}
#: Endings of what a run writes of a case.
RESULTS = ("_recon.nii.gz", "_phase.nii.gz", ".provenance.json", ".png", ".dcm")


def blobs(*shape: int) -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return (400 * (sum(a**2 for a in axes) < 0.9) * (1 + 0.3 * np.cos(4 * axes[0]))).astype(np.float32)


def nifti(path: Path, array: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Path:
    nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), path)
    return path


def container(path: Path, data: Any, operator: dict[str, Any], **more: Any) -> Path:
    data = torch.as_tensor(data)
    kind = torch.complex64 if data.is_complex() else torch.float32
    write_measurement(path, Measurement(data=data.to(kind), geometry=GEOMETRY, operator=operator, **more))
    return path


def dicom(folder: Path, numbers: list[int], series: str = "9", folder_first: int = 0) -> Path:
    """Write MR slices 4 mm apart, those with the given numbers."""
    folder.mkdir(exist_ok=True)
    for k in numbers:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{series}.{k + 1}"
        ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        ds.SeriesInstanceUID, ds.SeriesNumber, ds.Modality = f"1.2.3.{series}", int(series), "MR"
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0.0, 0.0, 4.0 * k], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [1.0, 1.0], 4.0
        ds.Columns, ds.Rows, ds.SamplesPerPixel, ds.PhotometricInterpretation = 16, 14, 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.PixelData = blobs(16, 14).T.astype("<i2").tobytes()
        ds.save_as(folder / f"IM{folder_first + k:03d}.dcm", enforce_file_format=True)
    return folder


def cut(path: Path, part: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    return path


def file_of(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def nan_volume(p: Path) -> Path:
    array = blobs(*SHAPE)
    array[3, 4, 5] = np.nan
    return nifti(p / "scan.nii.gz", array)


def mixed_series(p: Path) -> Path:
    dicom(p / "series", [0, 1, 2])
    return dicom(p / "series", [0, 1, 2], series="8", folder_first=50)


def short_weights(p: Path) -> Path:
    """Weights that another program wrote, with one detector bin less than the data."""
    path = container(p / "scan.h5", torch.ones(6, 24, 12), CT)
    weights = np.ones((6, 23, 12), dtype=np.float32)
    with h5py.File(path, "a") as file:
        file.create_dataset("weights", data=weights).attrs["sha256"] = np.bytes_(sha256_array(weights).encode())
    return path


def spoiled_container(p: Path) -> Path:
    path = container(p / "scan.h5", torch.ones(6, 24, 12), CT)
    with h5py.File(path, "a") as file:
        file["data"][0, 0, 0] = 7.0
    return path


def folder(p: Path) -> Path:
    (p / "empty").mkdir()
    return p / "empty"


def thin(p: Path) -> Path:
    return nifti(p / "thin.nii.gz", blobs(*SHAPE))


@dataclass(frozen=True)
class Case:
    """A mistake.

    Attributes:
        image: writes the scan into a folder and returns its path.
        kind: the error.
        says: pieces of its line, in order.
        task: a task of the bundle.
        options: further options of the command; a callable gets the folder.
    """

    image: Callable[[Path], Path]
    kind: type[DiffReconError]
    says: tuple[str, ...]
    task: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {
    "wrong shape for the operator": Case(
        lambda p: container(p / "scan.h5", torch.ones(5, 24, 12), CT),
        InputError,
        ("operator parallel_ct: measurement of the wrong shape (views, detectors, Z)", "(6, 24, 12), got (5, 24, 12)"),
    ),
    "swapped axes": Case(
        lambda p: container(p / "scan.h5", torch.ones(6, 12, 24), CT),
        InputError,
        ("measurement of the wrong shape", "(6, 24, 12), got (6, 12, 24)", "bring its axes into this order"),
    ),
    "swapped axes of an image": Case(
        lambda p: container(p / "scan.h5", torch.ones(1, 14, 16, 4), THICK),
        InputError,
        ("measurement of the wrong shape", "(1, 16, 14, 4), got (1, 14, 16, 4)", "bring its axes into this order"),
    ),
    "NaN": Case(nan_volume, InputError, ("image: voxels that are not finite", "1 voxels of NaN", "replace them")),
    "missing DICOM slice": Case(
        lambda p: dicom(p / "series", [0, 1, 2, 4, 5]),
        InputError,
        ("image: missing slices: 1", "4.00 mm", "between those at 8.00 and 16.00 mm", "copy the missing slices"),
    ),
    "mixed DICOM series": Case(
        mixed_series, InputError, ("image: several series", "got 2 (1: MR, 3 slices of 16 x 14", '"series":1')
    ),
    "no such DICOM series": Case(
        lambda p: dicom(p / "series", [0, 1, 2]),
        InputError,
        ("no such series", "got 1 (1: MR"),
        options={"reader": {"name": "dicom", "series": 2}},
    ),
    "wrong number of coils": Case(
        lambda p: container(
            p / "scan.h5",
            torch.ones(3, *SHAPE, dtype=torch.complex64),
            {**MRI, "coil_maps": torch.ones(4, *SHAPE, dtype=torch.complex64) / 2},
        ),
        InputError,
        (
            "operator cartesian_mri: measurement of the wrong shape (coils, X, Y, Z)",
            "(4, 16, 14, 12), got (3, 16, 14, 12)",
        ),
    ),
    "coil maps of another volume": Case(
        lambda p: container(
            p / "scan.h5",
            torch.ones(4, *SHAPE, dtype=torch.complex64),
            {**MRI, "coil_maps": torch.ones(4, 16, 14, 6, dtype=torch.complex64)},
        ),
        ConfigError,
        ("operator#coil_maps: not coil maps of this volume", "(coils, 16, 14, 12)", "(4, 16, 14, 6)"),
    ),
    "real where complex is needed": Case(
        lambda p: container(p / "scan.h5", torch.ones(1, *SHAPE), MRI),
        InputError,
        (
            "operator cartesian_mri: measurement of the wrong type",
            "complex numbers, got real numbers",
            "not magnitudes",
        ),
    ),
    "complex where real is needed": Case(
        lambda p: container(p / "scan.h5", torch.ones(6, 24, 12, dtype=torch.complex64), CT),
        InputError,
        ("operator parallel_ct: measurement of the wrong type", "real numbers, got complex numbers"),
    ),
    "an image where k-space is needed": Case(
        thin,
        InputError,
        ("the measurement of CartesianMRI does not state the geometry", "--simulate true"),
        task="accelerated_mri",
        options={"simulate": False},
    ),
    "angles in radians": Case(
        lambda p: container(
            p / "scan.h5", torch.ones(6, 24, 12), {**CT, "views": None, "angles": (np.arange(6) * np.pi / 6).tolist()}
        ),
        ConfigError,
        ("operator#angles: these look like radians", "degrees", "angles_unit"),
    ),
    "an arc in radians": Case(
        thin,
        ConfigError,
        ("operator#arc: these look like radians", "got 3.14159"),
        task="sparse_view_ct",
        options={"operator#arc": float(np.pi)},
    ),
    "truncated .nii.gz": Case(
        lambda p: cut(nifti(p / "scan.nii.gz", np.random.default_rng(0).random(SHAPE, dtype=np.float32)), 0.6),
        InputError,
        ("image: cannot be read as NIfTI", "check that the file is complete"),
    ),
    "truncated .h5": Case(
        lambda p: cut(container(p / "scan.h5", torch.ones(6, 24, 12), CT), 0.7),
        InputError,
        ("image: cannot be read as HDF5", "check that the file is complete"),
    ),
    "changed .h5": Case(
        spoiled_container, IntegrityError, ("image#data: the data were changed", "sha256", "restore the file")
    ),
    "text renamed .nii": Case(
        lambda p: file_of(p / "scan.nii", b"x,y\n1,2\n" * 60),
        InputError,
        ("image: cannot be read as NIfTI",),
    ),
    "text renamed .h5": Case(
        lambda p: file_of(p / "scan.h5", b"x,y\n1,2\n" * 60),
        InputError,
        ("image: not recognized by any reader", "measurement_file", "nifti", "--reader NAME"),
    ),
    "text read as a measurement file": Case(
        lambda p: file_of(p / "scan.h5", b"x,y\n1,2\n" * 60),
        InputError,
        ("image: not an HDF5 file",),
        options={"reader": "measurement_file"},
    ),
    "unknown reader": Case(
        thin, PluginError, ("reader: unknown reader 'nifty'", "did you mean 'nifti'?"), options={"reader": "nifty"}
    ),
    "empty folder": Case(folder, InputError, ("image: an empty folder",)),
    "empty dataset": Case(
        folder,
        InputError,
        ("image, dataset_dir: nothing to reconstruct", "got a folder without scans"),
        options={"image": None, "dataset_dir": lambda p: p / "empty"},
    ),
    "4D NIfTI": Case(
        lambda p: nifti(p / "scan.nii.gz", np.ones((8, 7, 6, 3), dtype=np.float32)),
        InputError,
        ("image: several volumes", "three axes, got shape (8, 7, 6, 3)", "or a slice of all"),
    ),
    "another voxel size": Case(
        lambda p: nifti(p / "scan.nii.gz", blobs(8, 14, 4), (2.0, 1.0, 3.0)),
        ConfigError,
        ("bundle axial: voxels of another size than the axial network", "1 x 1 mm", "got 2 x 1 mm", "--resample true"),
    ),
    "a reference of another shape": Case(
        lambda p: nifti(p / "scan.nii.gz", blobs(16, 14, 4), (1.0, 1.0, 3.0)),
        InputError,
        ("reference: reference of another shape", "(1, 16, 14, 12), got (1, 16, 14, 11)", "resample"),
        options={"reference": lambda p: nifti(p / "truth.nii.gz", blobs(16, 14, 11))},
    ),
    "a constant reference": Case(
        lambda p: nifti(p / "scan.nii.gz", blobs(16, 14, 4), (1.0, 1.0, 3.0)),
        InputError,
        ("reference: a constant reference has no data range",),
        options={"reference": lambda p: nifti(p / "truth.nii.gz", np.ones(SHAPE, dtype=np.float32))},
    ),
    "a measurement as the reference": Case(
        lambda p: nifti(p / "scan.nii.gz", blobs(16, 14, 4), (1.0, 1.0, 3.0)),
        InputError,
        ("reference: a measurement instead of a volume", "got data of parallel_ct"),
        options={"reference": lambda p: container(p / "truth.h5", torch.ones(6, 24, 12), CT)},
    ),
    "weights of another shape": Case(
        short_weights, InputError, ("image#weights: of the wrong shape", "(6, 24, 12), got (6, 23, 12)")
    ),
    "a plugin that is not installed": Case(
        lambda p: container(p / "scan.h5", torch.ones(6, 8, 8), {"name": "cone_beam_ct", "views": 6}),
        PluginError,
        ("operator: unknown operator 'cone_beam_ct'", "install the package that provides it, diffrecon-rtk"),
    ),
    "slices thinner than asked for": Case(
        lambda p: nifti(p / "scan.nii.gz", blobs(16, 14, 4), (1.0, 1.0, 0.5)),
        InputError,
        ("operator#target_spacing: slices are already thinner than the target",),
    ),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "axial")


@pytest.fixture
def run(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run the bundle's command in this process; its network must not be reached."""

    def called(*_: Any) -> None:
        raise AssertionError("the network was called")

    monkeypatch.setattr(BiasFreeUNet, "forward", called)

    def run(task: str | None, **options: Any) -> None:
        configs = bundle / "configs"
        given = {
            "bundle_root": str(bundle),
            "config_file": [str(configs / "inference.json"), *([str(configs / f"tasks/{task}.json")] if task else [])],
            "device": "cpu",
            "output_dir": str(tmp_path / "out"),
            "case_name": "a",
            "evaluator#track": False,
            "initialize": [],
            **options,
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="parsing config_file")
            monai.bundle.run(logging_file=False, **given)

    return run


def without(distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the plugins of a distribution, as where it is not installed."""
    found = registry.discovery._entries

    def entries(kind: str) -> Any:
        kept, unreadable = found(kind)
        return tuple(e for e in kept if e.distribution != distribution), unreadable

    monkeypatch.setattr("monai_diffrecon.registry.discovery._entries", entries)


def written(output: Path) -> list[str]:
    """Return the files that look like a result."""
    return [p.name for p in output.rglob("*") if p.is_file() and p.name.endswith(RESULTS)]


@pytest.mark.parametrize("name", list(CASES))
def test_a_mistake_is_one_line(
    name: str, run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    if name == "a plugin that is not installed":
        without("diffrecon-rtk", monkeypatch)
    scans = tmp_path / "Doe_John"
    scans.mkdir()
    options = {"image": str(case.image(scans))}
    options |= {k: str(v(scans)) if callable(v) else v for k, v in case.options.items()}
    begun = time.process_time()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps what a component raises, and not always
        run(case.task, **options)
    errors = [e for e in chain_of(caught.value) if isinstance(e, DiffReconError)]
    assert errors, repr(caught.value)
    # The command's hook shows the outermost one.
    line = str(errors[0])
    assert type(errors[0]) is case.kind, line
    assert errors[0].exit_code == {IntegrityError: 4, PluginError: 7}.get(case.kind, 2)
    assert "\n" not in line
    assert len(line) < 600
    at = -1
    for piece in case.says:
        at = line.find(piece, at + 1)
        assert at >= 0, f"{piece!r} is not in, or not in this order: {line}"
    # Folders may name a patient.
    assert "Doe" not in line
    assert written(tmp_path / "out") == []
    assert time.process_time() - begun < 10


def test_weights_of_another_network(run: Callable[..., None], tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    other = make_bundle(tmp_path / "other")
    path = other / "models/model.pt"
    torch.save(BiasFreeUNet(channels=(6, 8), units=1, bottleneck_units=1).state_dict(), path)
    metadata = json.loads((other / "configs/metadata.json").read_text())
    metadata["diffrecon"]["weights"]["sha256"] = sha256_file(path)
    (other / "configs/metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(RuntimeError) as caught:
        run(None, bundle_root=str(other), image=str(thin(tmp_path)))
    (error,) = [e for e in chain_of(caught.value) if isinstance(e, InputError)]
    assert str(error).startswith("bundle other, network_def: weights do not fit the network")
    assert "head.conv.weight" in str(error)
    assert "\n" not in str(error)
    assert written(tmp_path / "out") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wrong shape for the operator", "unknown reader"], ids=lambda n: n.replace(" ", "_"))
def test_the_command_ends_with_one_line_and_an_exit_code(
    bundle: Path, tmp_path: Path, name: str, python_m: Callable[..., Any]
) -> None:
    case = CASES[name]
    words = ["run", "--config_file", bundle / "configs/inference.json"]
    options = {"bundle_root": bundle, "image": case.image(tmp_path), "output_dir": tmp_path / "out", **case.options}
    for key, value in {**options, "evaluator#track": "False"}.items():
        words += [f"--{key}", value]
    done = python_m("monai.bundle", *words)
    assert done.returncode == (7 if case.kind is PluginError else 2), done.stderr[-2000:]
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert all(piece in last for piece in case.says)
    assert "Traceback" not in done.stderr
    assert written(tmp_path / "out") == []
