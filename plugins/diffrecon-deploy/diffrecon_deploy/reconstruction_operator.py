# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The operator that reconstructs the selected series."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.deploy.core import ConditionType, Image, Operator, OperatorSpec

from diffrecon_deploy.selected_series import SelectedSeries, selected_series
from monai_diffrecon import ReconstructionResult, load


class Reconstructed(NamedTuple):
    """A result and the series it was made from."""

    result: ReconstructionResult
    series: SelectedSeries


class ReconstructionOperator(Operator):
    """Reconstructs the selected series from its files, as ``diffrecon reconstruct`` does.

    The SDK says which series and where its files are. They are read by this package's reader, which refuses what
    cannot be one volume: missing slices, gantry tilt, several volumes, phase images and so on.

    Named input:
        study_selected_series_list: from ``DICOMSeriesSelectorOperator`` with ``all_matched=True``; without it the
            operator takes the first of several series that match.

    Named outputs:
        reconstruction: :class:`Reconstructed`, for the operator that writes it.
        image: ``Image`` for other operators: float32 (Z, Y, X) in the unit of the series, and metadata with its
            ``affine`` (4, 4) from (x, y, z) to mm in RAS+, which is not that of the series. Need not be connected.

    Args:
        fragment: the application.
        conditions: conditions of Holoscan.
        bundle: path or name of a bundle.
        task: task of the bundle, or None for its own settings.
        method: preset of a method, or None.
        overrides: config id -> value.
        case: name of the case in files, records and identifiers; None makes one from the SeriesInstanceUID.
        name: name of the operator.

    Raises:
        ConfigError: no such bundle, task, method or id.
        IntegrityError: weights that were changed, or a configuration that runs untrusted code.
    """

    def __init__(
        self,
        fragment: Any,
        *conditions: Any,
        bundle: str | Path,
        task: str | None = None,
        method: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        case: str | None = None,
        name: str = "reconstruction",
    ) -> None:
        self._reconstructor = load(bundle, task=task, method=method, overrides=overrides)
        self._case = case
        super().__init__(fragment, *conditions, name=name)

    def setup(self, spec: OperatorSpec) -> None:
        """Name input and outputs."""
        spec.input("study_selected_series_list")
        spec.output("reconstruction").condition(ConditionType.NONE)
        spec.output("image").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Reconstruct.

        Raises:
            InputError: not one series, or one that is not read.
            DiffReconError: it cannot be reconstructed.
        """
        series = selected_series(op_input.receive("study_selected_series_list"))
        reader = {"name": "dicom", "series": series.uid}
        result = self._reconstructor.reconstruct(series.folder, case=self._case or series.case, reader=reader)
        op_output.emit(Reconstructed(result, series), "reconstruction")
        op_output.emit(Image(np.asarray(result).transpose(2, 1, 0), {"affine": result.affine}), "image")
