# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reconstructs series by a rule, as ``diffrecon reconstruct`` does, and writes derived series."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_diffrecon.bundle.config import content_of, merged_config
from monai_diffrecon.bundle.metadata import checked_metadata
from monai_diffrecon.bundle.places import find_bundle
from monai_diffrecon.errors import ConfigError, ResumeMismatchError
from monai_diffrecon.io.dicom.series_writer import write_derived_series
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.serve.rules import Rule
from monai_diffrecon.tracking.provenance import read_record, record_path

#: Ids that the worker sets, or that would run something else: id -> what to do instead.
_NOT_HERE = {
    **dict.fromkeys(("image", "dataset_dir", "reference", "case_name", "output_dir"), "omit it, the worker sets it"),
    **dict.fromkeys(("output_format", "bundle_root", "resume"), "omit it, the worker sets it"),
    **dict.fromkeys(("dataset", "datalist", "dataloader", "handlers", "imports", "initialize", "run"), "omit it"),
}


class SeriesReconstruction:
    """A rule with its networks loaded.

    Attributes:
        rule: the rule.
        configuration: hash of everything that the rule says of the reconstruction, and of the weights.
    """

    def __init__(self, rule: Rule, where: str) -> None:
        """Load and check everything.

        Args:
            rule: the rule.
            where: its place for messages.

        Raises:
            ConfigError: no such bundle, task, method or id, one out of range, or a network for another modality.
            IntegrityError: weights that were changed, or a configuration that runs untrusted code.
        """
        root = find_bundle(rule.bundle)
        metadata, _, image = checked_metadata(root)
        if image.modality in ("CT", "MR") and image.modality != rule.modality:
            raise ConfigError(
                f"a network for {image.modality}", where=f"{where}#bundle", expected=f"one for {rule.modality}"
            )
        overrides = {"reader": "dicom", **rule.overrides}
        config = merged_config(
            root, task=rule.task, method=rule.method, overrides=overrides, refused=_NOT_HERE, where=where
        )
        said = [metadata, rule.task, rule.method, rule.overrides, rule.keep_identity]
        self.rule, self._where = rule, where
        self.configuration = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        networks = {name: content_of(config, name, where) for name in ("score", "auxiliaries")}
        self._config: dict[str, Any] = {**config.get(), **networks}
        content_of(ConfigParser(self._config), "inferer", where)  # checks the options now

    def reconstruct(self, scan: Path, case: str, output: Path) -> str:
        """Reconstruct a series unless that is already done, or go on where an earlier run stopped.

        Everything is written as ``diffrecon reconstruct`` does: volume, record, page, and one MLflow run.

        Args:
            scan: folder of the series.
            case: name of the case.
            output: folder for all cases.

        Returns:
            Unit of the volume.

        Raises:
            DiffReconError: the series cannot be reconstructed.
        """
        try:
            return self._run(scan, case, output, "auto")
        except ResumeMismatchError:  # the series has changed, or the software, since the run was interrupted
            return self._run(scan, case, output, "never")

    def _run(self, scan: Path, case: str, output: Path, resume: str) -> str:
        given = {"image": str(scan), "case_name": case, "output_dir": str(output), "resume": resume}
        evaluator = content_of(ConfigParser({**self._config, **given}), "evaluator", self._where)
        evaluator.run()
        unit = read_record(record_path(volume_path(output, case)))["source"]["unit"]
        return str(evaluator.recorder.unit if unit == "arbitrary" else unit)

    def write(self, folder: Path, scan: Path, case: str, output: Path, *, unit: str, series: str) -> list[Path]:
        """Write the derived series of a case and return its files.

        Its UIDs follow from the source series and from everything that determines the voxels: repeated, it is the
        same series with the same images.

        Args:
            folder: folder to make.
            scan: folder of the source series.
            case: name of the case.
            output: folder of all cases.
            unit: unit of the volume.
            series: what identifies the source series.

        Raises:
            InputError: the source has no usable header, or the volume cannot be written.
        """
        path = volume_path(output, case)
        identity = read_record(record_path(path))["identity_sha256"]
        volume, geometry = read_volume(path)
        words = f"bundle {Path(self.rule.bundle).name}, rule {self.rule.name}"
        write_derived_series(
            folder,
            scan,
            volume,
            geometry,
            case=case,
            unit=unit,
            derivation=f"Reconstructed by monai_diffrecon ({words}); for research, not for clinical use",
            entropy="\0".join((series, identity, str(self.rule.keep_identity))),
            keep_identity=self.rule.keep_identity,
        )
        return sorted(folder.glob("*.dcm"))


def volume_path(output: Path, case: str) -> Path:
    """Return the volume of a case."""
    return output / f"{case}_recon.nii.gz"
