# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The wording of errors is in ``wording.json`` alone; other tests assert fields.

After a change of wording, write the file anew and read what git says of it::

    REWRITE_WORDING=1 pytest tests/errors/test_wording.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_diffrecon import read_scan, registry
from monai_diffrecon.bundle.metadata import read_metadata
from monai_diffrecon.bundle.zip_members import extract_checked
from monai_diffrecon.comparison.calibration import interval_coverage, rank_coverage
from monai_diffrecon.comparison.montage import montage
from monai_diffrecon.comparison.volume_metrics import psnr, volume_metrics
from monai_diffrecon.engine.cases.list_cases import list_cases
from monai_diffrecon.engine.plugin_checks import checked_call
from monai_diffrecon.errors import DiffReconError
from monai_diffrecon.evaluation.cohort.read import read_cohort
from monai_diffrecon.evaluation.reader_study.statistics import wilson_interval
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.numerics.ladders import ladder
from monai_diffrecon.protocols import SamplerState, VolumeGeometry
from monai_diffrecon.samplers.ddim import DDIMSampler
from monai_diffrecon.tracking.provenance import verify_record

WORDING = Path(__file__).with_name("wording.json")
ZEROS = torch.zeros(1, 4, 4, 4)


def plugin(kind: str, name: str, **options: Any) -> Any:
    geometry = {"geometry": VolumeGeometry((8, 8, 5))} if kind == "operators" else {}
    return registry.build(kind, {"name": name, **options}, **geometry)


def state() -> SamplerState:
    return SamplerState(x=ZEROS, sigma=1.0)


def file(folder: Path, name: str, content: str = "junk") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)
    return folder / name


#: Name of an error -> what provokes it, in an empty folder.
PROVOKED: dict[str, Callable[[Path], object]] = {
    "bundle: metadata is no JSON": lambda d: read_metadata(file(d, "b/configs/metadata.json", "{").parents[1]),
    "bundle: no archive": lambda d: extract_checked(file(d, "b.zip"), d / "new"),
    "bundle: none": lambda d: read_metadata(d / "nowhere"),
    "calibration: empty mask": lambda d: interval_coverage(ZEROS, ZEROS, ZEROS, mask=ZEROS),
    "calibration: negative std": lambda d: interval_coverage(ZEROS, ZEROS - 1, ZEROS),
    "calibration: one sample": lambda d: rank_coverage([ZEROS], ZEROS),
    "cases: no such scan": lambda d: list_cases(image=str(d / "a.nii"), output_dir=str(d)),
    "cases: not a name": lambda d: list_cases(image=str(file(d, "a.nii")), case_name="../x", output_dir=str(d)),
    "cases: not a path": lambda d: list_cases(image=7, output_dir=str(d)),  # type: ignore[arg-type]
    "cases: nothing": lambda d: list_cases(dataset_dir=str(d / "none"), output_dir=str(d)),
    "cohort: no JSON": lambda d: read_cohort(file(d, "cohort.json"), d),
    "cohort: unknown key": lambda d: read_cohort(file(d, "cohort.json", '{"case": []}'), d),
    "consistency: not a regularizer": lambda d: plugin("consistency", "admm", regularizers=[3]),
    "consistency: out of range": lambda d: plugin("consistency", "conjugate_gradient", iterations=0),
    "consistency: unbound": lambda d: plugin("consistency", "conjugate_gradient").on_estimate(ZEROS, state()),
    "intensity: no foreground": lambda d: IntensityMap.percentile(ZEROS),
    "intensity: window": lambda d: IntensityMap.window(3, 3),
    "metrics: another grid": lambda d: volume_metrics(ZEROS, ZEROS[..., 1:]),
    "metrics: complex": lambda d: volume_metrics(ZEROS.to(torch.complex64), ZEROS),
    "metrics: constant reference": lambda d: volume_metrics(ZEROS, ZEROS),
    "metrics: not finite": lambda d: volume_metrics(ZEROS / 0, ZEROS),
    "metrics: range": lambda d: psnr(ZEROS, ZEROS, data_range=0.0),
    "montage: nothing": lambda d: montage({}, ZEROS, d / "m.png"),
    "noise: unknown plane": lambda d: plugin("noises", "slerp", plane="z"),
    "operator: a centre too large": lambda d: plugin("operators", "cartesian_mri", center_fraction=0.9),
    "operator: mask of another shape": lambda d: plugin("operators", "cartesian_mri", mask=torch.ones(7, 8)),
    "operator: no view": lambda d: plugin("operators", "parallel_ct"),
    "operator: radians": lambda d: plugin("operators", "parallel_ct", angles=[0.0, 0.5, 1.0]),
    "operator: slices too thick": lambda d: plugin("operators", "slice_thickness", thickness=99.0),
    "operator: too large": lambda d: plugin("operators", "parallel_ct", views=4, memory_limit_gb=1e-9),
    "plugin: of another kind of volume": lambda d: checked_call(lambda x: x[..., 1:], ZEROS, "prior Rude"),
    "plugin: writes": lambda d: checked_call(lambda x: x.add_(0), ZEROS.clone(), "prior Rude"),
    "prior: unbound": lambda d: plugin("priors", "slices").denoise(ZEROS, 1.0, state()),
    "prior: unknown turns": lambda d: plugin("priors", "perpendicular", K=1),
    "record: damaged": lambda d: verify_record(file(d, "a.provenance.json")),
    "record: none": lambda d: verify_record(d / "none.provenance.json"),
    "registry: unknown kind": lambda d: registry.create("prior", "slices"),
    "registry: unknown option": lambda d: plugin("samplers", "ddim", step=3),
    "registry: what is no plugin": lambda d: registry.build("samplers", {"steps": 3}, where="sampler"),
    "sampler: ladder": lambda d: ladder("karras", 3, 0.1, 1.0),
    "sampler: no schedule": lambda d: DDIMSampler().schedule(state()),
    "sampler: unknown choice": lambda d: plugin("samplers", "ddim", ladder="linear"),
    "scan: none": lambda d: read_scan(d / "a.nii"),
    "statistics: no proportion": lambda d: wilson_interval(3, 2),
}


def line_of(provoke: Callable[[Path], object], folder: Path) -> str:
    with pytest.raises(DiffReconError) as caught:
        provoke(folder)
    return str(caught.value)


def test_errors_keep_their_wording(tmp_path_factory: pytest.TempPathFactory) -> None:
    says = {name: line_of(provoke, tmp_path_factory.mktemp("wording")) for name, provoke in PROVOKED.items()}
    if os.environ.get("REWRITE_WORDING"):
        WORDING.write_text(json.dumps(says, indent=2, ensure_ascii=False) + "\n")
    assert says == json.loads(WORDING.read_text())
    assert not [line for line in says.values() if "\n" in line]
