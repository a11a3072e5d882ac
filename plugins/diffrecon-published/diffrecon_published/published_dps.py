# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Guidance as the published code of TPDM has it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from monai_diffrecon.consistency.dps import DPSStep
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.protocols import NoiseSource, Problem, SamplerState

#: Suffix of the noise stream from which the measurement is noised.
_STREAM = "-measurement"


@dataclass
class StagedState(SamplerState):
    """A state within a step of several updates.

    Attributes:
        stage: the update that is under way.
    """

    stage: str = ""


class PublishedDPSStep(DPSStep):
    """``dps`` whose measurement may carry noise of the step's level (TPDM's thick slices, arXiv 2303.08440).

    Args:
        zeta: as of ``dps``, and so are the others but the last.
        relative: as of ``dps``.
        norm: as of ``dps``.
        batch_size: as of ``dps``.
        split: as of ``dps``.
        plane: as of ``dps``.
        noised_measurement: compare with a measurement that carries noise of the step's level, a fresh one for each
            update.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self,
        zeta: float = 1.0,
        *,
        relative: bool = True,
        norm: str = "slice",
        batch_size: int = 6,
        split: str = "near_equal",
        plane: str | None = None,
        noised_measurement: bool = False,
    ) -> None:
        super().__init__(zeta, relative=relative, norm=norm, batch_size=batch_size, split=split, plane=plane)
        self.noised_measurement = check_flag(noised_measurement, "consistency#noised_measurement")

    def bind(self, problem: Problem, noise: NoiseSource | None = None) -> None:
        """Take the inverse problem and the noise source.

        Raises:
            ConfigError: the measurement is to be noised without a noise source.
        """
        super().bind(problem, noise)
        if self.noised_measurement and noise is None:
            raise ConfigError(
                "needs a noise source", where="consistency#noised_measurement", mend="bind(problem, noise)"
            )

    def draws(self, stage: str, plane: str) -> tuple[str, ...]:
        """Return the noise streams that ``guidance`` draws from after the update ``stage``."""
        return (stage + _STREAM,) if self.noised_measurement and self.guides(plane) else ()

    def target(self, x0: Tensor, state: SamplerState) -> Tensor:
        """Return the measurement, noised if that is asked for."""
        y = super().target(x0, state)
        if not self.noised_measurement:
            return y
        return y + state.sigma * self.problem.operator.norm() ** 0.5 * self._noise(x0, state)

    def _noise(self, x0: Tensor, state: SamplerState) -> Tensor:
        """Return unit noise of the measurement's shape.

        Where the measurement is a coarser grid of the volume it takes the volume's noise at the first voxel of each
        coarse one, so that slices stay independent whatever the number of them.
        """
        assert self.noise is not None
        y, shape = self.problem.measurement, tuple(x0.shape)
        stream = (state.stage if isinstance(state, StagedState) else "") + _STREAM
        fine, coarse = self.problem.operator.geometry.spacing, self.problem.operator.measured_geometry().spacing
        ratios = (1, *(max(1, round(c / f)) for c, f in zip(coarse, fine, strict=True)))
        if y.ndim == x0.ndim and all((m - 1) * r < n for m, r, n in zip(y.shape, ratios, shape, strict=True)):
            n = self.noise.volume(shape, state.step, stream=stream, dtype=y.dtype)
            every = tuple(slice(0, (m - 1) * r + 1, r) for m, r in zip(y.shape, ratios, strict=True))
            return n[every].to(y.device)
        return self.noise.measurement(tuple(y.shape), state.step, stream=stream, dtype=y.dtype).to(y.device)
