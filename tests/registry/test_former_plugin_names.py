# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Former names of plugins and options: understood through every door, with one warning, and never written down."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

import monai_diffrecon as dr
from monai_diffrecon import registry
from monai_diffrecon.bundle.config import merged_config
from monai_diffrecon.cli import main as cli
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.engine.resume.run_point import RunPoint
from monai_diffrecon.engine.transforms.simulate_measurement import SimulateMeasurementd
from monai_diffrecon.errors import ConfigError, PluginError, ResumeMismatchError
from monai_diffrecon.io.find_reader import find_reader, read_scan
from monai_diffrecon.io.measurement.file import write_measurement
from monai_diffrecon.io.measurement.metatensor import to_tensor
from monai_diffrecon.options.command_line import check_arguments, with_present_ids
from monai_diffrecon.options.known_ids import options_of
from monai_diffrecon.presets.overlays import METHOD, METHODS, overlay_path
from monai_diffrecon.priors.perpendicular import PerpendicularPrior
from monai_diffrecon.protocols import Plugin, SamplerState
from monai_diffrecon.registry.contract import FORMER_NAMES
from monai_diffrecon.tracking.provenance import read_record, verify_record

FORMER = [(kind, old, new) for kind, names in FORMER_NAMES.items() for old, new in names.items()]
RENAMED = {"annealed": "pnp_hqs", "cg_sense": "cg_least_squares", "unmeasured": "unconditional"}
RENAMED |= {"container": "measurement_file", "borrow": "share"}
GEOMETRY = dr.VolumeGeometry((12, 10, 9))
SHARE = {"sagittal": "coronal"}
OLD = {
    "prior": {"name": "perpendicular", "borrow": SHARE},
    "sampler": {"name": "annealed", "steps": 2, "sigma_start": 0.2, "start": {"name": "cg_sense", "iterations": 2}},
}
NEW = {
    "prior": {"name": "perpendicular", "share": SHARE},
    "sampler": {
        "name": "pnp_hqs",
        "steps": 2,
        "sigma_start": 0.2,
        "start": {"name": "cg_least_squares", "iterations": 2},
    },
}

RELAY = '''
from monai_diffrecon import registry
from monai_diffrecon.protocols import ClassicalSampler
from monai_diffrecon.priors import PerpendicularPrior


class Relay(ClassicalSampler):
    """Hand on."""

    plugin_options = {"start": "samplers"}

    def __init__(self, start="cg_sense") -> None:
        self.start = registry.create("samplers", start) if isinstance(start, str) else start

    def estimate(self, measurement): ...


class Mine(PerpendicularPrior):
    """Still has the option."""

    def __init__(self, borrow: str = "") -> None:
        super().__init__()
        self.mine = borrow
'''


@contextmanager
def said() -> Iterator[list[str]]:
    """Give the texts of all warnings of former names."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    of_names = [w for w in caught if "is now called" in str(w.message)]
    assert {w.category for w in of_names} <= {FutureWarning}
    texts += [str(w.message) for w in of_names]


def told(*former: str) -> list[str]:
    return sorted(f"{name!r} is now called {RENAMED[name]!r}" for name in former)


def names(texts: list[str]) -> list[str]:
    """Return which names were warned of, each as often as it was."""
    return sorted(pair for text in texts for pair in told(*RENAMED) if pair in text)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("renamed")
    make_bundle(root / "tiny_axial")
    make_bundle(root / "tiny_coronal", "coronal", 1)
    blob = np.random.default_rng(0).random((14, 13, 4), dtype=np.float32) * 100
    nib.save(nib.Nifti1Image(blob, np.diag([1.0, 1, 3, 1])), root / "thick.nii.gz")
    return root


@pytest.fixture(scope="module")
def loaded(root: Path) -> dr.Reconstructor:
    return dr.load(root / "tiny_axial", auxiliary_bundle="../tiny_coronal", device="cpu")


@pytest.fixture(scope="module")
def scan() -> Tensor:
    volume = torch.rand((1, *GEOMETRY.shape), generator=torch.Generator().manual_seed(0)) * 100
    measure = SimulateMeasurementd(["image"], {"name": "cartesian_mri", "acceleration": 2.0})
    measured: Tensor = measure({"image": MetaTensor(volume)})["image"]
    return measured


def inferer(loaded: dr.Reconstructor, **options: Any) -> dr.DiffReconInferer:
    auxiliaries = loaded.inferer.auxiliaries
    return dr.DiffReconInferer(
        loaded.inferer.score, "cartesian_mri", auxiliaries=auxiliaries, progress=False, **options
    )


@pytest.mark.parametrize(("kind", "old", "new"), FORMER)
def test_a_former_name_is_understood_with_one_warning(kind: str, old: str, new: str) -> None:
    context = {"geometry": GEOMETRY} if kind == "operators" else {}
    for prefix in ("", "monai-diffrecon:", "Monai_Diffrecon:"):
        with said() as texts:
            plugin = registry.build(kind, prefix + old, **context)
            assert type(plugin) is registry.load(kind, new) is registry.load(kind, prefix + old)
            assert type(registry.create(kind, prefix + old, **context)) is type(plugin)
            registry.check_options(kind, {"name": prefix + old}, context=context)
            assert registry.distribution_of(kind, prefix + old) == "monai-diffrecon"
            assert registry.current(kind, prefix + old) == registry.current_name(kind, prefix + old) == prefix + new
        (text,) = texts
        assert f"{prefix + old!r} is now called {prefix + new!r}" in text
        assert registry.KINDS[kind][0] in text
    with pytest.raises(ConfigError) as caught, pytest.warns(FutureWarning, match=new):
        registry.check_options(kind, {"name": old, "nope": 1}, context=context)
    assert str(caught.value.where).endswith("#nope")


def test_only_the_names_of_today_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {(info.kind, info.name) for info in registry.available()}
    assert {(kind, new) for kind, _, new in FORMER} <= listed
    assert not {(kind, old) for kind, old, _ in FORMER} & listed
    with pytest.raises(PluginError) as caught:
        registry.load("samplers", "annealled")
    assert "annealed" not in str(caught.value.expected)


@pytest.mark.parametrize(("kind", "old", "new"), FORMER)
def test_the_page_of_a_former_name_says_where_it_went(
    kind: str, old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for asked in (old, f"{kind}:{old}", f"monai-diffrecon:{old}"):
        assert cli.main(["plugins", asked]) == 0
        page = capsys.readouterr().out
        assert page.startswith(f"{new} ({kind})")
        assert repr(old) in page
    assert cli.main(["plugins", old, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == new


def test_former_classes_can_be_imported() -> None:
    from monai_diffrecon.io import ContainerReader, MeasurementFileReader
    from monai_diffrecon.operators import Unconditional, Unmeasured
    from monai_diffrecon.samplers import AnnealedSampler, CGLeastSquares, CGSense, PnPHQSSampler

    assert AnnealedSampler is PnPHQSSampler
    assert CGSense is CGLeastSquares
    assert Unmeasured is Unconditional
    assert ContainerReader is MeasurementFileReader


def test_a_plugin_of_that_name_comes_before_the_former_name(install: Callable[..., None]) -> None:
    install("acme", "samplers", {"annealed": "Relay", "relay": "Relay"}, RELAY)
    assert type(registry.create("samplers", "annealed", start="initial")).__name__ == "Relay"
    assert registry.current_name("samplers", "acme:annealed") == "acme:annealed"
    with pytest.warns(FutureWarning, match="pnp_hqs"):
        assert type(registry.create("samplers", "monai-diffrecon:annealed")).__name__ == "PnPHQSSampler"


def test_a_plugin_of_a_package_may_ask_for_a_former_name(install: Callable[..., None]) -> None:
    install("acme", "samplers", {"relay": "Relay"}, RELAY)
    with said() as texts:
        own = registry.create("samplers", "relay")
        nested = registry.build("samplers", {"name": "relay", "start": {"name": "cg_sense", "iterations": 3}})
    assert names(texts) == told("cg_sense")
    assert type(own.start).__name__ == type(nested.start).__name__ == "CGLeastSquares"
    assert nested.start.iterations == 3


@pytest.mark.parametrize("name", ["perpendicular", "monai-diffrecon:perpendicular", PerpendicularPrior])
def test_a_former_option_is_understood(name: Any) -> None:
    with said() as texts:
        registry.check_options("priors", {"name": name, "borrow": SHARE})
        prior = registry.build("priors", {"name": name, "borrow": SHARE})
    assert prior.share == SHARE
    assert names(texts) == told("borrow")
    with pytest.raises(ConfigError) as caught, pytest.warns(FutureWarning, match="share"):
        registry.build("priors", {"name": name, "borrow": {"oblique": "axial"}})
    assert caught.value.where == "prior#share"


def test_of_both_options_the_latter_counts() -> None:
    overlay = {"axial": "sagittal"}
    with pytest.warns(FutureWarning, match="share"):
        assert registry.create("priors", "perpendicular", share=SHARE, borrow=overlay).share == overlay
    with pytest.warns(FutureWarning, match="share"):
        assert registry.create("priors", "perpendicular", borrow=overlay, share=SHARE).share == SHARE


def test_a_subclass_may_keep_the_option(install: Callable[..., None]) -> None:
    install("acme", "priors", {"mine": "Mine"}, RELAY)
    assert registry.create("priors", "mine", borrow="word").mine == "word"


def test_no_class_lists_a_former_option_that_it_has() -> None:
    for info in registry.available():
        cls = registry.load(info.kind, f"{info.distribution}:{info.name}")
        assert issubclass(cls, Plugin)
        given = set(options_of({"name": f"{info.distribution}:{info.name}"}) or ())
        assert not {*cls.former_options} & given
        assert {*cls.former_options.values()} <= given


def test_an_inferer_keeps_the_names_of_today(loaded: dr.Reconstructor, scan: Tensor) -> None:
    today = inferer(loaded, **NEW)
    with said() as texts:
        before = inferer(loaded, **OLD)
        got = before.reconstruct(scan, case="a")
        inferer(loaded, **OLD)
    assert names(texts) == told("annealed", "borrow", "cg_sense")
    assert before.specs == today.specs
    assert before.identity(scan, "a") == today.identity(scan, "a")
    expected = today.reconstruct(scan, case="a")
    assert torch.equal(got.volume, expected.volume)
    assert got.report.options == expected.report.options
    assert not {"annealed", "cg_sense", "borrow"} & set(json.dumps(got.report.options).split('"'))


def test_a_measurement_may_name_its_operator_by_a_former_name(loaded: dr.Reconstructor) -> None:
    empty = to_tensor(dr.Measurement(torch.zeros(0), GEOMETRY, operator={"name": "unmeasured"}))
    options = {"sampler": {"name": "ddim", "steps": 1}, "consistency": "none"}
    with pytest.warns(FutureWarning, match="unconditional"):
        done = dr.DiffReconInferer(loaded.inferer.score, "unmeasured", progress=False, **options).reconstruct(empty)
    assert done.report.options["operator"]["name"] == "unconditional"


def test_a_reader_by_its_former_name(tmp_path: Path) -> None:
    y = torch.ones(6, 24, 9)
    write_measurement(tmp_path / "scan.h5", dr.Measurement(y, GEOMETRY, {"name": "parallel_ct", "views": 6}))
    with said() as texts:
        reader = find_reader(tmp_path / "scan.h5", "container")
        name, measurement = read_scan(tmp_path / "scan.h5", {"name": "container"})
    assert (type(reader).__name__, name) == ("MeasurementFileReader", "measurement_file")
    assert torch.equal(measurement.data, y)
    assert names(texts) == told("container")


def test_overrides_of_scripts_and_cohorts(root: Path) -> None:
    overrides = {"sampler#name": "annealed", "sampler#start": "cg_sense", "perpendicular#borrow#axial": "coronal"}
    with said() as texts:
        config = merged_config(root / "tiny_axial", overrides=overrides).get()
        whole = merged_config(root / "tiny_axial", overrides={"perpendicular::borrow": SHARE}).get()
        done = dr.load(root / "tiny_axial", overrides=overrides, device="cpu").inferer
    assert config["perpendicular"]["share"] == {"sagittal": "coronal", "axial": "coronal"}
    assert whole["perpendicular"]["share"] == SHARE
    assert "borrow" not in config["perpendicular"].keys() | whole["perpendicular"].keys()
    assert (done.specs["sampler"]["name"], done.specs["sampler"]["start"]) == ("pnp_hqs", "cg_least_squares")
    assert names(texts) == told("annealed", "borrow", "cg_sense")
    with pytest.raises(ConfigError) as caught:
        merged_config(root / "tiny_axial", overrides={"sampler#name": "annealed", "sampler#stepz": 3})
    assert "sampler#steps" in str(caught.value.mend)


def test_ids_of_a_command_line(root: Path) -> None:
    config = ["--config_file", str(root / "tiny_axial/configs/inference.json")]
    words = [*config, "--perpendicular#borrow#axial=coronal", "--perpendicular::borrow", str(SHARE), "--seed", "-5"]
    with pytest.warns(FutureWarning, match="share"):
        check_arguments(words)
    with pytest.warns(FutureWarning, match="share"):
        present = with_present_ids(words)
    assert present == [*config, "--perpendicular#share#axial=coronal", "--perpendicular#share", *words[-3:]]
    assert with_present_ids([*config, "--perpendicular#K", "3"]) == [*config, "--perpendicular#K", "3"]
    assert with_present_ids(["--help"]) == ["--help"]


def words(root: Path, output: Path, **options: str) -> list[str]:
    """Return a command line that runs the bundle by former names, in one step."""
    options = {
        "config_file": str(root / "tiny_axial/configs/inference.json"),
        "bundle_root": str(root / "tiny_axial"),
        "auxiliary_bundle": "../tiny_coronal",
        "image": str(root / "thick.nii.gz"),
        "case_name": "a",
        "output_dir": str(output),
        "logging_file": "False",
        "evaluator#track": "false",
        "sampler": "{'name': 'annealed', 'steps': 1, 'sigma_start': 0.2, 'start': 'cg_sense'}",
    } | options
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def check_written(output: Path, shared: dict[str, str]) -> None:
    config = read_record(output / "a_recon.provenance.json")["config"]
    assert (config["sampler"]["name"], config["sampler"]["start"]) == ("pnp_hqs", "cg_least_squares")
    assert config["prior"]["share"] == shared
    assert "borrow" not in config["prior"]


def test_a_run_by_former_names_ends_well_and_warns_once(
    root: Path, tmp_path: Path, python_m: Callable[..., Any]
) -> None:
    given = words(root, tmp_path / "out", **{"perpendicular#borrow": str(SHARE)})
    done = python_m("monai.bundle", "run", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert names([line for line in (done.stdout + done.stderr).splitlines() if "is now called" in line]) == told(
        "annealed", "borrow", "cg_sense"
    )
    check_written(tmp_path / "out", SHARE)


def test_the_programs_own_run_takes_former_names_within_ids(root: Path, tmp_path: Path) -> None:
    given = words(root, tmp_path / "out", device="cpu", **{"perpendicular#borrow#axial": "coronal"})
    with said() as texts:
        assert cli.main(["run", *given]) == 0
    assert names(texts) == told("annealed", "borrow", "cg_sense")
    check_written(tmp_path / "out", {**SHARE, "axial": "coronal"})


def test_a_record_of_before_verifies_and_reruns(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = merged_config(
        root / "tiny_axial",
        overrides={"image": str(root / "thick.nii.gz"), "case_name": "a", "evaluator#track": False, "device": "cpu"}
        | {"auxiliary_bundle": "../tiny_coronal", "output_dir": str(tmp_path), "sampler": NEW["sampler"]},
    )
    config.get_parsed_content("evaluator").run()
    path = tmp_path / "a_recon.provenance.json"
    record = json.loads(path.read_text())
    text = json.dumps(record["config"]).replace("pnp_hqs", "annealed").replace("cg_least_squares", "cg_sense")
    before = {**record, "config": json.loads(text.replace('"share"', '"borrow"'))}
    assert before["config"]["sampler"]["name"] == "annealed"
    assert before["config"]["prior"]["borrow"] == SHARE
    assert canonical_sha256(record["config"]) == record["config_sha256"]
    before["config_sha256"] = canonical_sha256(before["config"])
    before["record_sha256"] = canonical_sha256({k: v for k, v in before.items() if k != "record_sha256"})
    path.write_text(json.dumps(before))
    assert verify_record(path) == before
    arguments = ["--image", str(root / "thick.nii.gz"), "--bundle", str(root / "tiny_axial")]
    with said() as texts:
        assert cli.main(["rerun", str(path), *arguments, "--auxiliary_bundle", str(root / "tiny_coronal")]) == 0
    assert "a_recon.nii.gz: reproduced" in capsys.readouterr().out
    assert names(texts) == told("annealed", "borrow", "cg_sense")


def canonical_sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def test_a_checkpoint_of_before_is_refused(loaded: dr.Reconstructor, scan: Tensor, tmp_path: Path) -> None:
    now = inferer(loaded, **NEW).identity(scan, "a")
    before = {key.replace(".share.", ".borrow."): value for key, value in now.items()}
    before["config.sampler.name"] = before["config.sampler.name"].replace("pnp_hqs", "annealed")
    assert before != now
    checkpoint = RunCheckpoint(tmp_path / "a_checkpoint.pt")
    checkpoint.open(before)
    checkpoint.write(RunPoint(SamplerState(x=torch.zeros(1, 2, 2, 2), sigma=0.1, seed=0, case="a", step=1)))
    with pytest.warns(FutureWarning), pytest.raises(ResumeMismatchError) as caught:
        inferer(loaded, **OLD).reconstruct(scan, case="a", checkpoint=RunCheckpoint(checkpoint.path))
    assert "config.sampler.name (annealed, now pnp_hqs)" in str(caught.value.got)


def test_a_bundle_of_before_is_inspected(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shutil.copytree(root / "tiny_axial", tmp_path / "axial")
    path = tmp_path / "axial/configs/inference.json"
    config = json.loads(path.read_text())
    config["sampler"] = OLD["sampler"]
    path.write_text(json.dumps(config))
    assert cli.main(["check", str(tmp_path / "axial")]) == 0
    out = capsys.readouterr().out
    assert "NOT INSTALLED" not in out
    assert "annealed: use pnp_hqs" in out
    assert "cg_sense: use cg_least_squares" in out


def test_mri_finds_its_preset_by_the_name_it_knows(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = METHODS / "cg_least_squares.json"
    assert overlay_path(METHOD, "cg_sense", where="test") == path
    assert cli.main(["methods", "--path", "cg_sense"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    loaded = dr.load(root / "tiny_axial", task="accelerated_mri", method="cg_sense", device="cpu")
    assert loaded.inferer.specs["sampler"]["name"] == "cg_least_squares"
