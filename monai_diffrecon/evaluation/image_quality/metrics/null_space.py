# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Errors in what was measured, and errors in what was not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from monai_diffrecon.evaluation.image_quality.measures.null_space import split_by_operator
from monai_diffrecon.evaluation.image_quality.metrics.lesion_survival import recovered
from monai_diffrecon.evaluation.image_quality.metrics.regions import (
    mean_finding,
    phantom_of,
    plain,
    setting_of,
)
from monai_diffrecon.protocols import PhantomMetric, PhantomScan, Picture, QualityResult, Quantity


class NullSpace(PhantomMetric):
    """RMS error within and outside the null space of the operator, and how much of lesions was measured."""

    name: ClassVar[str] = "null_space"
    question: ClassVar[str] = "invented"
    kinds: ClassVar[tuple[str, ...]] = ("lesion",)
    quantities: ClassVar[dict[str, Quantity]] = {
        "measured_rmse": Quantity("RMS error in what was measured", "intensity", "lower", 1),
        "null_rmse": Quantity("RMS error in the null space", "intensity", "lower", 1),
        "lesion_measured": Quantity("Part of the lesion's contrast that was measured", "of the true one", None),
        "null_map": Quantity("Error in the null space: what the measurement does not determine"),
        "measured_map": Quantity("Error in what was measured"),
    }
    method: ClassVar[str] = (
        "The error is split by the forward operator A into A\u207aA e, which contradicts or misses something measured, "
        "and the rest, on which the measurement is silent and where a method can only guess (Barrett and Myers, "
        "Foundations of Image Science, 2004). The same is done with the lesions themselves: a lesion of which little "
        "was measured can only be kept by a good guess. A\u207aA is computed by conjugate gradients; directions that "
        "are measured very weakly count as null space."
    )

    def __call__(self, scans: Sequence[PhantomScan]) -> QualityResult:
        """Measure."""
        errors: dict[str, list[float]] = {"measured_rmse": [], "null_rmse": []}
        visible: dict[tuple[object, ...], list[float]] = {}
        settings, pictures = dict[tuple[object, ...], dict[str, Any]](), list[Picture]()
        named = phantom_of(scans)
        known = [scan for scan in scans if scan.operator is not None]
        for scan in known:
            assert scan.operator is not None
            parts = split_by_operator((scan.volume - scan.truth).float(), scan.operator)
            for key, part in (("measured_rmse", parts.measured), ("null_rmse", parts.null)):
                errors[key].append(float(torch.linalg.vector_norm(part)) / math.sqrt(part.numel()))
            if scan.present and not pictures:
                middle = scan.truth.shape[3] // 2
                for key, part in (("null_map", parts.null), ("measured_map", parts.measured)):
                    pictures.append(Picture(key, np.flipud(plain(part)[:, :, middle].T), signed=True))
            if scan.present and scan.without is not None:
                signal = (scan.truth - scan.without).float()
                seen = plain(split_by_operator(signal, scan.operator).measured)
                for site in (s for s in scan.sites if s.kind == "lesion"):
                    setting = {**setting_of(site), **named(scan)}
                    settings[tuple(setting.values())] = setting
                    kept = recovered(seen, plain(signal), scan, site)
                    visible.setdefault(tuple(setting.values()), []).append(kept)
        warnings = () if known else ("the operator is unknown, so errors were not split",)
        findings = [mean_finding(key, values) for key, values in errors.items() if values]
        findings += [mean_finding("lesion_measured", values, settings[key]) for key, values in visible.items()]
        return QualityResult(tuple(findings), pictures=tuple(pictures), warnings=warnings)
