# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Compares a volume with the truth of its case, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon.comparison.case_metrics import case_metrics, check_mask, foreground, magnitude
from monai_diffrecon.comparison.statistics import agreement
from monai_diffrecon.comparison.third_party_metrics import providers
from monai_diffrecon.engine.cases.reference_grid import check_on_grid
from monai_diffrecon.evaluation.cohort.case_row import CaseRow
from monai_diffrecon.evaluation.cohort.cases import CaseHashes
from monai_diffrecon.evaluation.cohort.methods.prepared_method import digest
from monai_diffrecon.evaluation.cohort.spec import CohortSpec
from monai_diffrecon.numerics.hashing import sha256_tensor
from monai_diffrecon.numerics.noise import key_seed
from monai_diffrecon.protocols import VolumeGeometry

#: Changes when the computation of a metric changes, so that saved rows are computed again.
METRICS_VERSION = 3
_SAMPLE = 400  # voxels a case and method, for pictures


def compare_volume(
    row: CaseRow,
    volume: Tensor,
    truth: Tensor,
    geometry: VolumeGeometry,
    spec: CohortSpec,
    *,
    operator: Mapping[str, Any] | None,
    mask: Tensor | None,
    known: Mapping[str, float] | None = None,
) -> Tensor:
    """Put the metrics of a volume and the agreement of its intensities into its row.

    Args:
        row: the row.
        volume: (1, X, Y, Z), real.
        truth: of the same shape.
        geometry: their common geometry.
        spec: the cohort.
        operator: spec of the operator that measured the scan; for thick slices it gives their borders and axis.
        mask: (1, X, Y, Z), or None.
        known: result of ``volume_metrics`` with the data range of the truth, to avoid computing it again.

    Returns:
        The mask of the voxels whose intensities were compared, bool.

    Raises:
        InputError: volumes that cannot be compared, or a mask of another shape or without a voxel.
    """
    reference = magnitude(truth)
    row.metrics |= case_metrics(
        volume,
        reference,
        geometry,
        operator=operator,
        mask=mask,
        data_range=spec.data_range,
        vif=spec.vif,
        known=known if spec.data_range is None and known else None,
    )
    inside = foreground(reference) if mask is None else check_mask(mask, reference)
    pairs = torch.stack([reference[inside], volume[inside]], dim=1).double()
    row.agreement = agreement(pairs[:, 1].numpy(), pairs[:, 0].numpy())
    generator = torch.Generator().manual_seed(key_seed(spec.seed, "sample", row.case))
    chosen = torch.randperm(len(pairs), generator=generator)[:_SAMPLE]
    row.sample = [(float(a), float(b)) for a, b in pairs[chosen].tolist()]
    return inside


def check_region(mask: Tensor | None, truth: Tensor | None, geometry: VolumeGeometry, image: Tensor) -> None:
    """Refuse a mask that is empty or does not lie on the grid of the truth.

    Args:
        mask: (1, X, Y, Z), or None.
        truth: the truth, or None.
        geometry: of the volume.
        image: the scan; if it has no position, positions are not compared.

    Raises:
        InputError: such a mask.
    """
    if mask is not None and truth is not None:
        check_mask(mask, truth)
        check_on_grid(mask, geometry, "mask", "resample it to the reconstruction's grid", image=image)


def row_key(volume_sha256: str, truth: Any, hashes: CaseHashes, spec: CohortSpec) -> str:
    """Return the hash of everything that a saved row depends on.

    Args:
        volume_sha256: hash of the volume, or of its record.
        truth: the truth, or None.
        hashes: of the case's files.
        spec: the cohort.
    """
    sha = None if truth is None else sha256_tensor(torch.as_tensor(truth).as_subclass(Tensor))
    how = [METRICS_VERSION, spec.data_range, spec.vif, *providers()]
    return digest([volume_sha256, sha, hashes.mask, how])
