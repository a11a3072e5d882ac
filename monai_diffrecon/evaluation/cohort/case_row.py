# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The result of one method for one case."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from monai_diffrecon.comparison.case_metrics import finite_or_none
from monai_diffrecon.comparison.statistics import Agreement
from monai_diffrecon.io.atomic import write_json


@dataclass
class CaseRow:
    """The row of a case and a method.

    Attributes:
        case: name of the case.
        method: label of the method.
        status: ``computed``, ``reused`` (its record verified) or ``failed``.
        metrics: name -> value, see :mod:`~monai_diffrecon.comparison.metric_info`.
        record_sha256: hash of the provenance record.
        versions: distribution -> version, from the record.
        agreement: of the intensities with the truth, or None without one.
        sample: some voxels for pictures, alternating truth and reconstruction.
        residuals: what the case contributes to a calibration, or None without samples or truth.
        coverage: nominal and observed coverage of the samples' intervals, alternating; empty without samples or truth.
        error: the error's text, without file names.
        exit_code: exit code of that error.
    """

    case: str
    method: str
    status: str = "computed"
    metrics: dict[str, float] = field(default_factory=dict)
    record_sha256: str = ""
    versions: dict[str, str | None] = field(default_factory=dict)
    agreement: Agreement | None = None
    sample: list[tuple[float, float]] = field(default_factory=list)
    coverage: list[tuple[float, float]] = field(default_factory=list)
    residuals: dict[str, Any] | None = None
    error: str = ""
    exit_code: int = 0

    @property
    def failed(self) -> bool:
        """There are no numbers."""
        return self.status == "failed"

    def value(self, key: str) -> float:
        """Return a metric, NaN when there is none."""
        return self.metrics.get(key, math.nan)

    def write(self, path: Path, key: str) -> None:
        """Keep the row, with the key of what it was computed from."""
        content = asdict(self) | {"key": key}
        content["metrics"] = {name: finite_or_none(value) for name, value in self.metrics.items()}
        write_json(path, content)

    @classmethod
    def read(cls, path: Path, key: str) -> CaseRow | None:
        """Return the saved row of this key, or None."""
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("key") != key:
                return None
            content["metrics"] = {k: math.nan if v is None else float(v) for k, v in content["metrics"].items()}
            for name in ("sample", "coverage"):
                content[name] = [(float(a), float(b)) for a, b in content[name]]
            content["agreement"] = None if content["agreement"] is None else Agreement(**content["agreement"])
            return cls(**content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # it is computed again
