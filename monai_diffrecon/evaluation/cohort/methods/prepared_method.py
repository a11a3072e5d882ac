# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A method of a cohort, prepared before anything is computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from monai_diffrecon.bundle.config import content_of, merged_config, unwrapped
from monai_diffrecon.engine.calibration.calibration_file import Calibration, read_calibration
from monai_diffrecon.engine.cases.postprocessing import Postprocessing
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.recipe import weights_of
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.evaluation.cohort.read import slug
from monai_diffrecon.evaluation.cohort.spec import CohortCase, CohortMethod, CohortSpec
from monai_diffrecon.io.find_reader import AUTO
from monai_diffrecon.presets.family import family_of
from monai_diffrecon.presets.overlays import ABOUT
from monai_diffrecon.privacy.redaction import redact

#: What a cohort sets for all methods, or does not ask for: config id -> what to do instead.
_NOT_HERE = {
    **dict.fromkeys(("image", "reference", "dataset_dir", "case_name"), "list the scans under cases"),
    **dict.fromkeys(("bundle_root", "auxiliary_bundle"), "set it next to overrides"),
    "seed": "set the cohort's seed",
    "output_dir": "give the folder on the command line",
    "region": "give the cases a mask",
    **dict.fromkeys(("resume", "checkpoint_every", "tracking_required"), "set it on the command line"),
    **dict.fromkeys(
        ("simulate", "simulate_noise", "simulate_photons", "simulate_electronic_std", "simulate_unit"),
        "set the cohort's simulate, so that all methods see the same measurement",
    ),
    **dict.fromkeys(
        (
            *("dataset", "datalist", "dataloader", "evaluator", "handlers", "output_format"),
            *("imports", "initialize", "run"),
        ),
        "omit it: a cohort does not use it",
    ),
}
#: Ids without influence on the voxels.
_NO_INFLUENCE = {ABOUT, "device", "calibration", *_NOT_HERE} - {
    k for k in _NOT_HERE if k == "seed" or k.startswith("simulate")
}
#: Ids that a measurement depends on, besides the scan.
_MEASURES = (
    "operator",
    "reader",
    "correct_tilt",
    "resample",
    "resample_reference",
    "seed",
    *sorted(k for k in _NOT_HERE if k.startswith("simulate")),
)


class PreparedMethod:
    """A method with its configuration merged and checked, and its networks loaded.

    Args:
        method: the method.
        cohort: what all methods share.

    Attributes:
        label: its name in tables.
        folder: its name as a folder.
        inferer: the inferer.
        fingerprint: hash of everything that determines the voxels except the measurement: merged configuration,
            metadata and weights of the networks.
        measures: hash of everything that determines the measurement of a scan.
        reader: reader of the scans.
        correct_tilt: gantry-tilted scans are resampled to straight stacks.
        resample_reference: references on another grid are resampled to the reconstruction's.
        simulates: the scans are volumes whose measurement is simulated first.
        calibration: intervals are written by it and their coverage is reported, or None.
        description: bundle, task, preset and overrides, without paths.

    Raises:
        InputError: no bundle, or its weights do not fit.
        ConfigError: an option that does not exist, or a value that is wrong.
        IntegrityError: weights that were changed, or a configuration that runs untrusted code.
    """

    def __init__(self, method: CohortMethod, cohort: CohortSpec) -> None:
        self.label, self.folder = method.label, slug(method.label)
        self.where = f"method {method.label!r}"
        given = {"seed": cohort.seed, **cohort.simulate}
        if method.auxiliary_bundle is not None:
            given["auxiliary_bundle"] = method.auxiliary_bundle
        assert method.bundle is not None
        self.config = merged_config(
            method.bundle,
            task=method.task,
            method=method.preset,
            overrides=method.overrides,
            given=given,
            refused=_NOT_HERE,
            where=self.where,
        )
        self.inferer: DiffReconInferer = self._content("inferer")
        self.preprocessing: Any = self._content("preprocessing")
        changes = self.config.get().get("postprocessing") is not None
        self.postprocessing = Postprocessing(self._content("postprocessing") if changes else None)
        self.calibration: Calibration | None = None
        if self.config.get().get("calibration") is not None:
            self.calibration = read_calibration(self._content("calibration"))
        if family_of(self.inferer.specs["operator"]) == "none":
            raise ConfigError("nothing is measured, so nothing can be compared", where=f"{self.where}: operator")
        scores = (self.inferer.score, *self.inferer.auxiliaries)
        networks = [
            [s.name, s.version, s.sha256, s.plane, s.spacing, s.denoiser, s.intensity, s.window, s.channels]
            for s in scores
        ]
        kept = {k: v for k, v in self.config.get().items() if k not in _NO_INFLUENCE}
        self.fingerprint = digest([kept, networks])
        self.weights = weights_of(scores)
        self.description: dict[str, Any] = {
            "label": method.label,
            "bundle": f"{self.inferer.score.name} {self.inferer.score.version}",
            "auxiliaries": [f"{s.name} {s.version}" for s in self.inferer.auxiliaries],
            "task": method.task,
            "preset": method.preset,
            "overrides": redact(method.overrides),
        }
        measures = {k: self._content(k) for k in _MEASURES if k in self.config.get()}
        self.reader, self.simulates = (
            measures.get("reader", AUTO),
            check_flag(measures.get("simulate", False), "simulate"),
        )
        self.correct_tilt, self.resample_reference = (
            check_flag(measures.get(name, False), f"{self.where}: {name}")
            for name in ("correct_tilt", "resample_reference")
        )
        self.measures = digest([measures, self.config.get("preprocessing"), *networks[0][3:5], networks[0][6]])

    def measure(self, case: CohortCase) -> dict[str, Any]:
        """Return ``image`` (the measurement), ``reference`` if there is a truth, and ``image_reader``."""
        data: dict[str, Any] = {"image": str(case.image), "case": case.name, "realization": case.realization}
        if case.reference is not None:
            data["reference"] = str(case.reference)
        return dict(unwrapped(lambda: self.preprocessing(data)))

    @property
    def calibrates_region(self) -> bool:
        """The calibration gives intervals of the mean of a region."""
        return self.calibration is not None and self.calibration.nominal.region is not None

    def _content(self, name: str) -> Any:
        return content_of(self.config, name, self.where)


def digest(value: Any) -> str:
    """Return the sha256 of a value as canonical JSON; paths do not matter, tensors by their content."""
    text = json.dumps(redact(_plain(value)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.as_subclass(Tensor) if isinstance(value, Tensor) else value
