# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The conditions under which intervals are calibrated, and must be applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from monai_diffrecon.engine.plugin_objects import described
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.recipe import weights_of
from monai_diffrecon.engine.resume.run_identity import run_identity
from monai_diffrecon.errors import ConfigError

#: Options of the inferer without influence on the voxels, or on their last bits only.
_NO_INFLUENCE = ("sw_batch_size", "spacing_tolerance", "precision", "keep_samples", "volume_store", "noise_std")


def conditions_of(case: PosedCase, postprocessing: Sequence[Any] = ()) -> dict[str, str]:
    """Return bundles, plugins with their options, and the number of samples of a case as dotted name -> JSON value.

    Arrays of a measurement, such as coil maps, are of one scan each: only their number of axes is a condition.

    Args:
        case: the case.
        postprocessing: the recorded steps of the postprocessing.

    Raises:
        ConfigError: a run of which there are no intervals: one sample, or complex volumes.
    """
    recipe = case.recipe
    for wrong, where, expected, got in (
        (recipe.num_samples < 2, "inferer#num_samples", "2 or more", recipe.num_samples),
        (case.posed.operator.complex_volume, "operator#complex_volume", "false", True),
    ):
        if wrong:
            raise ConfigError("no intervals without samples of real volumes", where=where, expected=expected, got=got)
    settings = {name: value for name, value in case.settings.items() if name not in _NO_INFLUENCE}
    return run_identity(
        weights=weights_of(recipe.scores),
        config=_without_arrays(described(case.specs)),
        inferer=settings,
        unit=case.measured.unit,
        postprocessing=list(postprocessing),
    )


def _without_arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_arrays(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(inner) for inner in value]
    return f"array of {value.ndim} axes" if isinstance(value, Tensor) or hasattr(value, "ndim") else value
