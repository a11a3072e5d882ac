# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A transform that measures a volume."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_diffrecon.engine.composition import as_spec, build_operator
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.measurement import affine_of, check_finite, geometry_of, to_tensor
from monai_diffrecon.numerics.noise import key_seed
from monai_diffrecon.protocols import Measurement, Operator


class SimulateMeasurementd(MapTransform):
    """Replaces a volume (1, X, Y, Z) by its measurement and keeps the volume as the reference.

    The measurement is a ``MetaTensor`` that carries the geometry of its volume and its noise level; a measured
    image (thick slices) carries its own affine as well.

    Args:
        keys: keys of the volumes.
        operator: spec of the forward operator.
        noise: standard deviation of the noise added to every measured entry, relative to the root mean square of
            the non-zero ones.
        reference_key: key under which the volume is kept.
        seed: seed of the noise.
        enabled: False passes everything through, for data that is a measurement already.
    """

    def __init__(
        self,
        keys: KeysCollection,
        operator: Any,
        noise: float = 0.0,
        reference_key: str = "reference",
        seed: int = 0,
        *,
        enabled: bool = True,
    ) -> None:
        super().__init__(keys)
        if not 0.0 <= noise < float("inf"):
            raise ConfigError("noise out of range", where="simulate_noise", expected="0 or more", got=noise)
        self.spec = as_spec(operator, "operator")
        self.noise, self.reference_key, self.seed, self.enabled = float(noise), reference_key, seed, enabled

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Measure."""
        out = dict(data)
        for key in self.key_iterator(out) if self.enabled else ():
            volume = out[key]
            affine = volume.affine if isinstance(volume, MetaTensor) else None
            x = check_finite(torch.as_tensor(np.asarray(volume)), str(key))
            x = x.to(torch.complex64 if x.is_complex() else torch.float32)
            geometry = geometry_of(x.shape[1:], affine)
            operator = build_operator(self.spec, geometry)
            y = operator(x if x.is_complex() else x.to(operator.volume_dtype))
            if not bool((y != 0).any()):
                raise InputError("an empty volume: nothing is measured", where=str(key))
            y, std = self._add_noise(y, operator) if self.noise else (y, 0.0)
            measurement = Measurement(data=y, geometry=geometry, operator=self.spec, noise_std=std)
            out[key] = to_tensor(measurement, image=operator.measured_geometry())
            out[self.reference_key] = MetaTensor(x, affine=torch.as_tensor(affine_of(geometry)))
        return out

    def _add_noise(self, y: Tensor, operator: Operator) -> tuple[Tensor, float]:
        """Return the noisy measurement, and the standard deviation of each real component of its noise."""
        generator = torch.Generator().manual_seed(key_seed(self.seed, "simulate"))
        std = self.noise * float(y[y != 0].abs().square().mean().sqrt())
        noise = torch.randn(y.shape, generator=generator, dtype=y.dtype)
        # What is 0 for a random volume too was not measured: k-space outside the mask, rays beside the slice.
        probe = torch.rand(operator.volume_shape, generator=generator).to(operator.volume_dtype)
        # torch draws complex numbers whose magnitude has unit variance: half of it in each component.
        return y + std * noise * (operator(probe) != 0), std / 2**0.5 if y.is_complex() else std
