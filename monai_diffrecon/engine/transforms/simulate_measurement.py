# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A transform that measures a volume."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_diffrecon.engine.problem.simulation import Simulation, simulate
from monai_diffrecon.engine.transforms.resample_in_plane import note_preparation
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.io.measurement.metatensor import affine_of, from_tensor, to_tensor

logger = logging.getLogger(__name__)


class SimulateMeasurementd(MapTransform):
    """Replaces a volume (1, X, Y, Z) by its measurement and keeps the volume as the reference.

    The measurement is a ``MetaTensor`` that carries the geometry of its volume, its noise and its weights; a measured
    image (thick slices) carries its own affine as well. What carries an operator was measured already, and stays.
    The value of ``realization`` in the data, if there is one, wins over the argument.

    Args:
        keys: keys of the volumes.
        operator: spec of the forward operator.
        noise: standard deviation of the noise added to every measured entry, relative to the root mean square of
            the non-zero ones.
        reference_key: key under which the volume is kept.
        seed: seed of the noise.
        photons: photons a ray has without an object, for CT; None for no photon noise.
        electronic_std: standard deviation of the electronics' noise, in photons.
        unit: unit of the volume, ``HU``, ``1/mm`` or ``arbitrary``; None takes what the volume says.
        enabled: False passes everything through, for data that is a measurement already.
        realization: number of the noise of this seed, 0 to 2^31; see :class:`Simulation`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        operator: Any,
        noise: float = 0.0,
        reference_key: str = "reference",
        seed: int = 0,
        *,
        photons: float | None = None,
        electronic_std: float = 0.0,
        unit: str | None = None,
        enabled: bool = True,
        realization: int = 0,
    ) -> None:
        super().__init__(keys)
        self.simulation = Simulation(operator, noise, photons, electronic_std, unit, seed, realization)
        self.reference_key, self.enabled = reference_key, check_flag(enabled, "simulate")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Measure."""
        out = dict(data)
        how = replace(self.simulation, realization=out.get("realization", self.simulation.realization))
        for key in self.key_iterator(out) if self.enabled else ():
            volume = out[key] if isinstance(out[key], MetaTensor) else MetaTensor(torch.as_tensor(np.asarray(out[key])))
            said = from_tensor(volume)
            if said.operator is not None:
                logger.info("%s is a measurement already: nothing is simulated", key)
                continue
            x = said.data.to(torch.complex64 if said.data.is_complex() else torch.float32)
            measured, operator = simulate(
                x, said.geometry, how, unit=said.unit, where=str(key), source_sha256=said.source_sha256
            )
            out[key] = to_tensor(
                replace(measured, header=said.header, notices=said.notices, padding=said.padding, simulated=True),
                image=operator.measured_geometry(),
            )
            out[self.reference_key] = MetaTensor(x, affine=torch.as_tensor(affine_of(said.geometry)))
            options = asdict(how)
            if not how.realization:  # as it was noted before there were others
                del options["realization"]
            note_preparation(out, key, {"simulate": options})
        return out
