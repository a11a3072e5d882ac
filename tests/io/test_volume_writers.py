# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Formats of an installed package beside NIfTI, from its laws to a run and its record."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from torch import Tensor

from monai_diffrecon import registry
from monai_diffrecon.engine.cases.case_recorder import CaseRecorder
from monai_diffrecon.engine.cases.evaluator import ReconstructionEvaluator
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.transforms.load_measurement import LoadMeasurementd
from monai_diffrecon.errors import ConfigError, IntegrityError, PluginError
from monai_diffrecon.io.measurement.file import write_measurement
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.operators.cartesian_mri import CartesianMRI
from monai_diffrecon.protocols import Measurement, VolumeGeometry
from monai_diffrecon.testing.writer_laws import check_writer
from monai_diffrecon.tracking.provenance import outputs_in, verify_record

from ..engine.tiny_networks import SCORE

Install = Callable[..., None]

NRRD = '''
import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.protocols import VolumeWriter


class NRRDWriter(VolumeWriter):
    """Writes NRRD, raw float32 in RAS."""

    suffix = ".nrrd"

    def __init__(self, comment: str = "") -> None:
        self.comment = comment

    def write(self, path, volume, geometry, origin):
        if tuple(volume.shape) != (1, *geometry.shape) or volume.is_complex() or not volume.isfinite().all():
            raise InputError("not a volume", where=path.name)
        affine = np.array(geometry.affine)
        axes = " ".join("(" + ",".join(repr(float(v)) for v in axis) + ")" for axis in affine[:3, :3].T)
        lines = ["NRRD0004", f"# {self.comment}", "type: float", "dimension: 3", "space: RAS", "encoding: raw"]
        lines += ["sizes: " + " ".join(map(str, geometry.shape)), "endian: little", f"space directions: {axes}"]
        lines += ["space origin: (" + ",".join(repr(float(v)) for v in affine[:3, 3]) + ")", "", ""]
        voxels = volume[0].numpy().astype("<f4").tobytes(order="F")
        atomic_write(path, lambda temporary: temporary.write_bytes("\\n".join(lines).encode() + voxels))
        return (path,)
'''

ATOMIC = "from monai_diffrecon.io.atomic import atomic_write"
DIRECT = """
def atomic_write(path, write):
    if not path.parent.is_dir():
        raise InputError("no folder", where=path.name)
    {}
"""


def read_nrrd(path: Path) -> tuple[Tensor, VolumeGeometry]:
    head, voxels = path.read_bytes().split(b"\n\n", 1)
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line and line[0] != "#")
    shape = tuple(int(n) for n in fields["sizes"].split())
    affine = np.eye(4)
    axes = [*fields["space directions"].split(), fields["space origin"]]
    for k, axis in enumerate(axes):
        affine[:3, k] = [float(v) for v in axis.strip("()").split(",")]
    array = np.frombuffer(voxels, "<f4").reshape(shape, order="F").copy()
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    return torch.from_numpy(array)[None], VolumeGeometry(shape, spacing, tuple(map(tuple, affine.tolist())))


@pytest.fixture
def nrrd(install: Install) -> None:
    install("acme-nrrd", "writers", {"acme": "NRRDWriter"}, NRRD)


AFFINE = ((0.56, -0.48, 0.0, 5.0), (0.42, 0.64, 0.0, -8.0), (0.0, 0.0, 3.0, 12.5), (0.0, 0.0, 0.0, 1.0))
GEOMETRY = VolumeGeometry((10, 8, 3), (0.7, 0.8, 3.0), affine=AFFINE)
VOLUME = torch.rand((1, *GEOMETRY.shape), generator=torch.Generator().manual_seed(0)) + 1


def run(folder: Path, output_format: Any) -> ReconstructionEvaluator:
    """Reconstruct MRI whose every point was measured, without a network."""
    mask = torch.ones(GEOMETRY.shape[:2])
    spec = {"name": "cartesian_mri", "mask": mask}
    scan = folder / "Doe_John.h5"
    write_measurement(scan, Measurement(CartesianMRI(GEOMETRY, mask)(VOLUME), GEOMETRY, spec))
    cases = Dataset([{"image": str(scan), "case": "one"}], LoadMeasurementd(["image"]))
    inferer = DiffReconInferer(SCORE, "cartesian_mri", sampler="cg_least_squares", progress=False)
    loader = DataLoader(cases, batch_size=1, num_workers=0)
    output = str(folder / "out")
    evaluator = ReconstructionEvaluator(
        "cpu", loader, SCORE.network, inferer, output, track=False, output_format=output_format
    )
    evaluator.run()
    return evaluator


@pytest.mark.parametrize(
    ("output_format", "formats"),
    [
        ("acme", {"acme"}),
        (["nifti", "acme"], {"acme"}),
        (["dicom", {"name": "acme", "comment": "ours"}], {"dicom", "acme"}),
        ({"name": "acme-nrrd:acme"}, {"acme"}),
        ("both", {"dicom"}),
        ("nifti", set()),
    ],
)
def test_the_formats_of_a_run(nrrd: None, tmp_path: Path, output_format: Any, formats: set[str]) -> None:
    run(tmp_path, output_format)
    out = tmp_path / "out"
    volume, geometry = read_volume(out / "one_recon.nii.gz")
    record = verify_record(out / "one_recon.provenance.json")
    assert {*record["output"].get("formats", {}), *record["output"].keys() & {"dicom"}} == formats
    assert (out / "one" / "dicom").is_dir() == ("dicom" in formats)
    assert (out / "one_recon.nrrd").is_file() == ("acme" in formats)
    if "acme" in formats:
        found, lies = read_nrrd(out / "one_recon.nrrd")
        assert torch.equal(found, volume)
        np.testing.assert_allclose(lies.affine, geometry.affine, atol=1e-3)
        np.testing.assert_allclose(lies.affine, AFFINE, atol=1e-3)
        assert (b"# ours" in (out / "one_recon.nrrd").read_bytes()) == ("dicom" in formats)
        assert (out / "one_recon.nrrd").resolve() in outputs_in(out)
    assert [p.name for p in out.rglob("*") if ".tmp" in p.name] == []


def test_the_record_speaks_of_it(nrrd: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, "acme")
    record, path = tmp_path / "out" / "one_recon.provenance.json", tmp_path / "out" / "one_recon.nrrd"
    before = path.stat().st_mtime_ns
    assert run(tmp_path, "acme").state.output["report"] is None  # its record verifies: nothing is computed
    assert path.stat().st_mtime_ns == before
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError) as caught:
        verify_record(record)
    assert caught.value.where == "one_recon.nrrd"
    path.unlink()
    with pytest.raises(IntegrityError):
        verify_record(record)
    with caplog.at_level(logging.WARNING):
        assert run(tmp_path, "acme").state.output["report"] is not None
    assert path.is_file()


def test_a_format_that_is_asked_for_later_is_written(nrrd: None, tmp_path: Path) -> None:
    run(tmp_path, "nifti")
    assert run(tmp_path, "acme").state.output["report"] is not None
    assert (tmp_path / "out" / "one_recon.nrrd").is_file()


@pytest.mark.parametrize(
    ("output_format", "error", "where", "near"),
    [
        ("dicm", PluginError, "output_format", "'dicom'"),
        (["nifti", "acm"], PluginError, "output_format", "'acme'"),
        ({"name": "acme", "coment": "x"}, ConfigError, "output_format#coment", "'comment'"),
        (3, ConfigError, "output_format", ""),
        (None, ConfigError, "output_format", ""),
    ],
)
def test_an_unknown_format_is_refused_before_anything_is_computed(
    nrrd: None, tmp_path: Path, output_format: Any, error: type[Exception], where: str, near: str
) -> None:
    with pytest.raises(error) as caught:
        CaseRecorder(tmp_path, track=False, tracking_uri=None, experiment="e", output_format=output_format)
    assert caught.value.where == where  # type: ignore[attr-defined]
    assert near in str(caught.value.mend)  # type: ignore[attr-defined]


def test_a_writer_that_fails_is_one_line_without_paths(install: Install, tmp_path: Path) -> None:
    broken = NRRD.replace("affine = np", "raise OSError(path)\n        affine = np")
    install("acme-nrrd", "writers", {"acme": "NRRDWriter"}, broken)
    with pytest.raises(PluginError) as caught:
        run(tmp_path, "acme")
    assert caught.value.where == "output_format"
    assert str(tmp_path) not in str(caught.value)
    assert "OSError" in caught.value.what
    assert not (tmp_path / "out" / "one_recon.provenance.json").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (ATOMIC, DIRECT.format("write(path)"), "in one step"),
        (ATOMIC, DIRECT.format("t = path.with_name('.part'); write(t); t.replace(path)"), "leaves something behind"),
        ("affine[:3, 3]", "affine[:3, 3] + 0.01", "from its place"),
        ("affine[:3, :3].T", "affine[:3, :3]", "from its place"),
        ('(order="F")', '(order="C")', "a voxel is wrong"),
        ("not volume.isfinite().all()", "False", "not finite"),
        ("volume.is_complex()", "False", "complex"),
        ("return (path,)", "return ()", "it returns no file"),
        ("return (path,)", "return (path, path.with_suffix('.txt'))", "it does not return"),
        ("atomic_write(path", "path.with_suffix('.raw').write_bytes(b'x'); atomic_write(path", "it does not return"),
        ('raise InputError("not a volume", where=path.name)', "raise ValueError", "instead of an InputError"),
        ('raise InputError("not a volume", where=path.name)', "raise InputError(str(path))", "names the folder"),
        ("        affine = np", "        path.parent.mkdir(exist_ok=True)\n        affine = np", "missing folder"),
        ("        affine = np", "        volume += 1\n        affine = np", "the volume was changed"),
        ("{self.comment}", "{id(object())}{np.random.rand()}", "equal input"),
    ],
)
def test_the_laws_find_a_wrong_writer(install: Install, tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in NRRD
    install("acme-nrrd", "writers", {"acme": "NRRDWriter"}, NRRD.replace(old, new))
    with pytest.raises(AssertionError, match=said):
        check_writer(registry.create("writers", "acme"), tmp_path / "laws", read_nrrd)


def test_the_laws_of_a_right_one(nrrd: None, install: Install, tmp_path: Path) -> None:
    check_writer(registry.create("writers", "acme"), tmp_path / "laws", read_nrrd)
    check_writer(registry.create("writers", "acme"), tmp_path / "again")  # by our reader of NRRD
    install("acme-other", "writers", {"other": "NRRDWriter"}, NRRD.replace('".nrrd"', '".other"'))
    with pytest.raises(AssertionError, match="no installed reader recognises"):
        check_writer(registry.create("writers", "other"), tmp_path / "other")
