# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Records that are verified and rerun by the command line."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_diffrecon.cli import main as cli
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import read_volume, write_volume
from monai_diffrecon.presets.overlays import overlay_path
from monai_diffrecon.tracking.provenance_schema import record_schema

SHAPE = (14, 13, 12)
ROOT = Path(__file__).parents[3]


class Done:
    """Reconstructions of one bundle, each with what was laid over its configuration."""

    def __init__(self, root: Path, make_bundle: Callable[..., Path]) -> None:
        self.root, self.bundle = root, make_bundle(root / "axial")
        self.coronal = make_bundle(root / "coronal", plane="coronal", seed=1)
        self.scan, self.other = root / "Doe.nii.gz", root / "Roe.nii.gz"
        for seed, path in enumerate((self.scan, self.other)):
            noise = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed))
            volume = 500 * torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1)
            write_volume(path, volume, geometry_of(SHAPE, np.diag([1.04, 0.97, 1.0, 1.0])))

    def reconstruct(self, name: str, *overlays: str, **options: Any) -> Path:
        """Return the record of a run of the bundle."""
        output = self.root / name
        config = ConfigParser()
        files = [overlay_path(*name.split("/"), self.bundle, where="test") for name in overlays]
        config.read_config([str(file) for file in (self.bundle / "configs/inference.json", *files)])
        settings = {
            "bundle_root": str(self.bundle),
            "auxiliary_bundle": "../coronal",
            "image": str(self.scan),
            "output_dir": str(output),
            "evaluator#track": False,
            "device": "cpu",
        }
        config.update(settings | options)
        config.get_parsed_content("evaluator").run()
        (record,) = output.glob("*.provenance.json")
        return record

    def rerun(self, record: Path, *more: str, image: Path | None = None) -> int:
        arguments = ["rerun", str(record), "--image", str(image or self.scan), "--bundle", str(self.bundle)]
        return cli.main([*arguments, "--auxiliary_bundle", str(self.coronal), *more])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Done:
    return Done(tmp_path_factory.mktemp("rerun"), make_bundle)


@pytest.fixture(scope="module")
def record(done: Done) -> Path:
    steps = {"sampler#steps": 3}
    return done.reconstruct("first", "tasks/z_super_resolution", seed=4, simulate_noise=0.01, **steps)


POSTERIOR = {"num_samples": 3, "keep_samples": True, "sampler": {"name": "ddim", "steps": 2, "sigma_start": 0.3}}


@pytest.mark.parametrize(
    ("name", "overlays", "options"),
    [
        ("resampled", ["tasks/z_super_resolution"], {"resample": True, "sampler#steps": 2}),
        ("samples", ["tasks/z_super_resolution"], POSTERIOR),
        ("complex", ["tasks/accelerated_mri"], {"operator#complex_volume": True, "sampler": "initial"}),
        ("classical", ["tasks/sparse_view_ct", "methods/admm_tv"], {"sampler#iterations": 3}),
        ("fewer", ["tasks/z_super_resolution"], {"inferer#sw_batch_size": 3, "sampler#steps": 2}),
    ],
)
def test_a_rerun_gives_the_same_files(
    name: str, overlays: list[str], options: dict[str, Any], done: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    record = done.reconstruct(name, *overlays, seed=2, **options)
    assert done.rerun(record) == 0
    said = capsys.readouterr().out.splitlines()
    output = json.loads(record.read_text())["output"]
    files = [output["file"], *(v["file"] for v in output.get("spread", {}).values())]
    files += [output["phase"]["file"]] if "phase" in output else []
    assert sorted(line for line in said if "reproduced" in line) == sorted(f"{file}: reproduced" for file in files)
    assert len(files) == {"samples": 7, "complex": 2}.get(name, 1)


def test_a_record_of_schema_1_is_rerun(done: Done, record: Path, tmp_path: Path) -> None:
    said = json.loads(record.read_text())
    report = said.pop("report")
    old = {name: report[name] for name in ("network_calls", "fallbacks", "execution", "notices")}
    old |= {"timings": {"seconds": report["seconds"]}, "residuals": [row["residual"] for row in report["steps"]]}
    said |= old | {"schema_version": "1"}
    del said["record_sha256"]
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    path = tmp_path / record.name
    path.write_text(json.dumps(said | {"record_sha256": hashlib.sha256(text.encode()).hexdigest()}))
    assert done.rerun(path) == 0


def test_the_new_files_are_kept_when_asked_for(done: Done, record: Path, tmp_path: Path) -> None:
    assert done.rerun(record, "--output", str(tmp_path / "again")) == 0
    (new,) = (tmp_path / "again").glob("*_recon.nii.gz")
    assert new.read_bytes() == record.with_name(new.name).read_bytes()
    assert cli.main(["verify", str(tmp_path / "again")]) == 0


def test_another_scan_is_refused(done: Done, record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert done.rerun(record, image=done.other) == 4
    line = capsys.readouterr().err
    assert line.startswith("error: image: not the measurement of the record")
    assert "Roe" not in line


def test_other_weights_are_refused(
    done: Done, record: Path, make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_bundle(tmp_path / "axial", seed=9)
    assert cli.main(["rerun", str(record), "--image", str(done.scan), "--bundle", str(other)]) == 4
    assert "no bundle with the weights of axial 0.1.0" in capsys.readouterr().err


def test_another_result_is_told(
    done: Done, record: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from monai_diffrecon.samplers.pnp_hqs import PnPHQSSampler

    step = PnPHQSSampler.step

    def changed(self: Any, *given: Any) -> Any:
        after = step(self, *given)
        after.x = after.x * 1.0001
        return after

    monkeypatch.setattr(PnPHQSSampler, "step", changed)
    assert done.rerun(record) == 4
    said = capsys.readouterr()
    assert "ANOTHER RESULT" in said.out
    assert "the outputs differ; got the same versions and instruction set" in said.err


def test_records_and_outputs_are_verified(record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(record.parent, folder)
    copies = folder / "mlartifacts" / "0123" / "artifacts"
    copies.mkdir(parents=True)
    shutil.copy(record, copies)  # MLflow's, without the output
    assert cli.main(["verify", str(folder)]) == 0
    assert capsys.readouterr().out.startswith(f"{record.name}: verified, sha256 ")
    output = folder / record.name.replace(".provenance.json", ".nii.gz")
    volume, geometry = read_volume(output)
    write_volume(output, volume + 1.0, geometry)
    shutil.copy(record, folder / "second.provenance.json")
    (folder / "third.provenance.json").write_text("[" * 100_000)
    assert cli.main(["verify", str(folder)]) == 4
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("error: ") for line in errors)
    assert cli.main(["verify", str(tmp_path / "nothing")]) == 2


def test_a_run_records_where_and_how_it_was_done(done: Done, record: Path) -> None:
    said = json.loads(record.read_text())
    assert said["report"]["execution"]["batch_sizes"] == {"axial": 8, "coronal": 8, "sagittal": 8}
    assert said["report"]["execution"]["threads"] == torch.get_num_threads()
    assert said["report"]["execution"]["resumed"] == 0
    assert said["inferer"]["overlap"] == 0.25
    (step,) = said["preparation"]
    assert step["simulate"]["noise"] == 0.01
    assert step["simulate"]["seed"] == 4
    assert "Doe" not in record.read_text()


def test_the_published_schema_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    published = json.loads((ROOT / "docs/schemas/provenance-2.schema.json").read_text())
    assert published == record_schema()
    assert cli.main(["verify", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == record_schema()


def test_what_a_tilt_correction_and_a_resampling_made_of_a_scan_is_made_again(done: Done) -> None:
    affine = np.diag([0.8, 0.8, 4.0, 1.0])
    affine[1, 2] = 0.9
    image = nib.Nifti1Image(np.random.default_rng(0).random((16, 15, 4), np.float32), affine)
    image.set_sform(affine, code=1)
    path = done.root / "tilted.nii.gz"
    nib.save(image, path)
    settings = {"image": str(path), "correct_tilt": True, "resample": True, "sampler#steps": 2}
    record = done.reconstruct("tilted", **settings)
    said = json.loads(record.read_text())
    assert [list(step) for step in said["preparation"]] == [["correct_tilt"], ["resample"]]
    assert any("12.7 degrees" in line for line in said["report"]["notices"])
    assert any("0.8 mm to 1 mm along X" in line for line in said["report"]["notices"])
    assert done.rerun(record, image=path) == 0
