# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The copy of a volume that was given, and a note that says so, where pictures and pages look for reconstructions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.data import MetaTensor

from monai_diffrecon.engine.cases.notes.case_note import metrics_text
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.atomic import write_json
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.tracking.markdown import code, plain
from monai_diffrecon.tracking.provenance import record_path

_WHAT = "a volume of other software, given to a cohort; not reconstructed by monai_diffrecon"


class VolumeCopy:
    """The copy ``<case>_recon.nii.gz`` and its note ``<case>_recon.given.json``, which is no provenance record.

    Args:
        folder: where they are.
        case: name of the case.
        source_sha256: hash of the volume that was given.
    """

    def __init__(self, folder: Path, case: str, source_sha256: str) -> None:
        self.folder, self.case, self.source_sha256 = folder, case, source_sha256
        self.file, self.note = folder / f"{case}_recon.nii.gz", folder / f"{case}_recon.given.json"

    def is_there(self) -> bool:
        """Say whether copy and note are there, unchanged, and of this volume."""
        try:
            return bool(json.loads(self.note.read_text(encoding="utf-8")) == self._content())
        except (OSError, ValueError, InputError):
            return False

    def write(self, volume: MetaTensor) -> None:
        """Write both; a record of a reconstruction that had this name is removed.

        Args:
            volume: (1, X, Y, Z), real, in RAS+ order.
        """
        record_path(self.file).unlink(missing_ok=True)
        write_volume(self.file, volume, geometry_of(volume.shape[1:], volume.affine))
        write_json(self.note, self._content())

    def track(self, run: Any, scan_sha256: str, metrics: Mapping[str, float]) -> None:
        """Track that the volume was given, of which scan, and how it compares.

        Args:
            run: the run of the case.
            scan_sha256: hash of the scan.
            metrics: name -> value.
        """
        run.log_dataset(self.case, scan_sha256, {})
        run.log_params({"volumes": {"given": True, "sha256": self.source_sha256}})
        run.log_artifact(self.note)
        about = f"Volume of {plain(self.case)} that other software made, in {code(self.folder.name)}."
        run.log_note("\n\n".join([f"{about} For research, not for clinical use.", *metrics_text(metrics)]))

    def _content(self) -> dict[str, Any]:
        return {
            "what": _WHAT,
            "case": self.case,
            "source_sha256": self.source_sha256,
            "output": {"file": self.file.name, "sha256": sha256_file(self.file)},
        }
