# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Repeating a recorded reconstruction to check that the result is the same."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.utils import CommonKeys
from torch import Tensor

from monai_diffrecon.bundle.score_network import BESIDE, ScoreNetwork, load_auxiliaries, load_score_network
from monai_diffrecon.engine.cases.case_recorder import CaseRecorder
from monai_diffrecon.engine.cases.run_case import run_case
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.reconstruct_posed import circumstances
from monai_diffrecon.engine.transforms.floor_padding import FloorPaddingd
from monai_diffrecon.engine.transforms.load_measurement import LoadMeasurementd
from monai_diffrecon.engine.transforms.resample_in_plane import ResampleInPlaned
from monai_diffrecon.engine.transforms.simulate_measurement import SimulateMeasurementd
from monai_diffrecon.errors import ConfigError, InputError, IntegrityError
from monai_diffrecon.io.atomic import make_folder
from monai_diffrecon.io.find_reader import AUTO
from monai_diffrecon.io.measurement.metatensor import from_tensor
from monai_diffrecon.tracking.provenance import read_record
from monai_diffrecon.tracking.versions import versions_of

logger = logging.getLogger(__name__)

#: Preparation steps of the measurement; then those done by the reader or to the reference.
_PREPARATIONS = {"floor_padding": FloorPaddingd, "simulate": SimulateMeasurementd, "resample": ResampleInPlaned}
_OTHERS = ("correct_tilt", "resample_reference")


@dataclass(frozen=True)
class Rerun:
    """The result of the repetition.

    Attributes:
        files: name of each recorded output -> whether its hash is the same.
        changed: what differs: versions, instruction set.
    """

    files: dict[str, bool]
    changed: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Every output has the recorded hash."""
        return all(self.files.values())


def rerun(
    record: str | Path,
    image: str | Path,
    bundle: str | Path,
    auxiliary_bundles: Sequence[str] = (),
    *,
    output_dir: str | Path | None = None,
    device: torch.device | str | None = None,
) -> Rerun:
    """Repeat a recorded reconstruction from the same scan and weights, and compare the hashes.

    Args:
        record: the record.
        image: the scan it was made from.
        bundle: root of the bundle.
        auxiliary_bundles: roots of the bundles of other planes; if empty, those beside the bundle when the record lists
            several.
        output_dir: folder for the new outputs; None: a temporary one.
        device: device of the networks.

    Raises:
        InputError: no such file, or an incomplete record.
        IntegrityError: the scan or the weights differ from the record.
    """
    said = read_record(record)
    missing = [name for name in ("case", "inferer", "execution", "preparation") if name not in said | said["report"]]
    if missing:
        raise InputError(
            "an older record without the necessary entries",
            where=Path(record).name,
            expected=", ".join(missing),
            mend="verify it instead",
        )
    if "postprocessing" in said["options"]:
        raise InputError(
            "a bundle's postprocessing cannot be repeated from a record",
            where="options#postprocessing",
            expected="an output that is the reconstruction itself",
            mend="run the bundle again",
        )
    score = load_score_network(bundle, device=device)
    several = len(said["weights"]) > 1
    auxiliaries = load_auxiliaries(list(auxiliary_bundles) or (BESIDE if several else None), score, bundle, device)
    _check_weights(said, (score, *auxiliaries))
    scan = _prepared(said, image)
    inferer = _inferer(said, scan, score, auxiliaries, device)
    case = inferer.pose(scan, case=said["case"])
    _check_scan(said, case.sha256)
    changed = _changed(said, case)
    threads = torch.get_num_threads()
    torch.set_num_threads(int(said["report"]["execution"]["threads"]))
    try:
        if output_dir is not None:
            return Rerun(_outputs(said, inferer, case, make_folder(output_dir)), changed)
        with tempfile.TemporaryDirectory(prefix="diffrecon-") as folder:
            return Rerun(_outputs(said, inferer, case, Path(folder)), changed)
    finally:
        torch.set_num_threads(threads)


def _check_weights(said: Mapping[str, Any], scores: Sequence[ScoreNetwork]) -> None:
    there = {score.sha256 for score in scores}
    for name, sha in said["weights"].items():
        if sha not in there:
            raise IntegrityError(
                f"no bundle with the weights of {name}",
                where="bundle, auxiliary_bundle",
                expected=f"sha256 {sha[:16]}...",
                got=", ".join(f"{s.name} {s.version}" for s in scores),
                mend="give the bundles in the versions that the record lists",
            )


def _prepared(said: Mapping[str, Any], image: str | Path) -> Tensor:
    """Return the measurement, made from the scan as recorded."""
    if not Path(image).exists():
        raise InputError("no such file", where="image")
    data: dict[Any, Any] = {CommonKeys.IMAGE: str(image), "case": said["case"]}
    tilted = any("correct_tilt" in step for step in said["preparation"])
    data = LoadMeasurementd([CommonKeys.IMAGE], said["source"]["reader"] or AUTO, correct_tilt=tilted)(data)
    for step in said["preparation"]:
        ((name, options),) = step.items()
        if name in _OTHERS:
            continue
        if name not in _PREPARATIONS:
            raise InputError("an unknown preparation step", where="preparation", got=name)
        data = _PREPARATIONS[name]([CommonKeys.IMAGE], **options)(data)
    return torch.as_tensor(data[CommonKeys.IMAGE])


def _check_scan(said: Mapping[str, Any], got: str) -> None:
    if got != said["measurement_sha256"]:
        raise IntegrityError(
            "not the measurement of the record",
            where="image",
            expected=f"sha256 {said['measurement_sha256'][:16]}...",
            got=f"{got[:16]}...",
            mend="give the scan that it was made from",
        )


def _inferer(
    said: Mapping[str, Any],
    scan: Tensor,
    score: ScoreNetwork,
    auxiliaries: Sequence[ScoreNetwork],
    device: torch.device | str | None,
) -> DiffReconInferer:
    config = dict(said["config"])
    slots = ("operator", "prior", "consistency", "sampler", "noise", "runtime")
    specs = {name: config[name] for name in slots if name in config}
    if from_tensor(scan).operator is not None:
        specs["operator"] = specs["operator"]["name"]  # the measurement brings its options, arrays among them
    options = dict(said["inferer"])
    if options.get("sw_batch_size") == "auto":  # what it chose, which depends on the free memory
        options["sw_batch_size"] = max(_batch_sizes(said), default="auto")
    try:
        return DiffReconInferer(
            score, **specs, auxiliaries=auxiliaries, seed=said["seeds"]["noise"], device=device, **options
        )
    except TypeError as error:
        raise ConfigError("options unknown to this version", where="inferer", got=str(error)) from error


def _changed(said: Mapping[str, Any], case: PosedCase) -> tuple[str, ...]:
    """Return the differences as text."""
    names = [name for name in said["versions"] if name not in ("python", "torch", "monai", "monai_diffrecon")]
    now, before = versions_of(names), said["versions"]
    changed = [f"{name} {before[name]} (now {now[name]})" for name in sorted(now) if before.get(name) != now[name]]
    execution, here = said["report"]["execution"], circumstances(case)
    for name in sorted(here.keys() - {"threads", "sw_batch_size"}):
        if here[name] != execution.get(name):
            changed.append(f"{name} {execution.get(name)} (now {here[name]})")
    if _batch_sizes(said) - {case.recipe.sw_batch_size}:
        changed.append("the network batch size was reduced during the run")
    return tuple(changed)


def _batch_sizes(said: Mapping[str, Any]) -> set[int]:
    return {int(size) for size in said["report"]["execution"].get("batch_sizes", {}).values()}


def _outputs(said: Mapping[str, Any], inferer: DiffReconInferer, case: PosedCase, folder: Path) -> dict[str, bool]:
    """Reconstruct into a folder; return name of each output -> whether it has the recorded hash."""
    recorder = CaseRecorder(
        folder,
        track=False,
        tracking_uri=None,
        experiment="",
        resume="never",
        checkpoint_every=0,
        anatomy=inferer.score.anatomy,
    )
    with recorder.cohort():
        done = run_case(
            inferer,
            case,
            recorder,
            reader=said["source"]["reader"],
            preparation=said["preparation"],
            options=said["options"],
        )
    new = done.record["output"]
    old = said["output"]
    files = {old["file"]: old["sha256"] == new["sha256"]}
    if "phase" in old:
        files[old["phase"]["file"]] = old["phase"]["sha256"] == new.get("phase", {}).get("sha256")
    for name, entry in old.get("spread", {}).items():
        if name in ("low", "high"):  # what a calibration makes of mean and standard deviation
            continue
        files[entry["file"]] = entry["sha256"] == new.get("spread", {}).get(name, {}).get("sha256")
    return files
