# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Networks trained as denoising diffusion probabilistic models, as MONAI trains them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monai_diffrecon.denoisers._ddpm_schedules import SCHEDULES, alphas_cumprod, timestep_of
from monai_diffrecon.denoisers._output import checked
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_choice, check_integer, check_number, check_sigma_range
from monai_diffrecon.protocols import Denoiser


class DDPMDenoiser(Denoiser):
    """A variance-preserving network ``(x_t, timesteps=t)`` of MONAI, seen in variance-exploding coordinates.

    ``x_t = sqrt(abar) z0 + sqrt(1 - abar) n`` divided by ``sqrt(abar)`` is ``z0 + sigma_z n`` with
    ``sigma_z = sqrt((1 - abar) / abar)``; z is the volume mapped to ``data_range``. The scaling uses the abar of the
    noise level itself, the timestep only conditions the network. (Song et al. 2021, arXiv 2010.02502, section 4.3.)

    Args:
        network: called as ``network(x, timesteps=t)``. It may return twice the channels (a learned variance), of
            which the first half counts.
        sigma_min: smallest noise level, in network units; None takes that of the first noisy timestep.
        sigma_max: largest noise level, in network units; None takes that of the last timestep.
        prediction_type: what it returns: ``epsilon``, ``v_prediction`` or ``sample``.
        num_train_timesteps: number of timesteps of the training.
        schedule: ``linear_beta``, ``scaled_linear_beta`` or ``cosine``, as MONAI names them.
        beta_start: first beta of the schedule.
        beta_end: last beta of the schedule.
        alphas_cumprod: abar of each timestep, instead of a named schedule.
        timesteps: ``nearest`` or ``interpolated``: how a noise level between two timesteps is passed to the network.
        data_range: the (low, high) that intensities 0 and 1 are mapped to in training, for example (-1, 1).

    Raises:
        ConfigError: an option out of its range, or noise levels outside the schedule.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        prediction_type: str = "epsilon",
        num_train_timesteps: int = 1000,
        schedule: str = "linear_beta",
        beta_start: float = 1e-4,
        beta_end: float = 2e-2,
        alphas_cumprod: Sequence[float] | Tensor | None = None,
        timesteps: str = "nearest",
        data_range: Sequence[float] = (0.0, 1.0),
    ) -> None:
        low, high = _range(data_range)
        table = _table(alphas_cumprod, schedule, num_train_timesteps, beta_start, beta_end)
        levels = ((1.0 - table) / table).sqrt()
        first = int((levels > 0.0).nonzero()[0])
        levels = levels[first:]
        limits = float(levels[0]) / (high - low), float(levels[-1]) / (high - low)
        wanted = check_sigma_range(
            limits[0] if sigma_min is None else sigma_min, limits[1] if sigma_max is None else sigma_max, "denoiser"
        )
        # The limits themselves, rounded to the digits of a configuration file, are fine.
        if wanted[0] < limits[0] * (1 - 1e-3) or wanted[1] > limits[1] * (1 + 1e-3):
            raise ConfigError(
                "noise levels outside the training schedule",
                where="denoiser#sigma_min, sigma_max",
                expected=f"within {limits[0]:.6g} to {limits[1]:.6g}",
                got=f"{wanted[0]:g} to {wanted[1]:g}",
                mend="omit them to use those of the schedule",
            )
        super().__init__(network, sigma_min=wanted[0], sigma_max=wanted[1])
        choices = ("epsilon", "v_prediction", "sample")
        self.prediction_type = check_choice(prediction_type, "denoiser#prediction_type", choices)
        self.interpolate = check_choice(timesteps, "denoiser#timesteps", ("nearest", "interpolated")) == "interpolated"
        self._offset, self._scale = low, high - low
        # On the CPU in float64, and no buffer: .half() and devices without float64 would spoil it.
        self._levels, self._first = levels, first

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Denoise slices (B, C, H, W); ``sigma`` is one number or one a slice, (B,), in network units."""
        if isinstance(sigma, Tensor) or x.device.type == "cpu":
            return super().forward(x, sigma)
        # The timestep is found on the CPU from the number itself: reading it from the device would wait for that.
        t = self.timestep(torch.full((1,), sigma, dtype=x.dtype) * self._scale)
        levels = torch.full((x.shape[0], 1, 1, 1), sigma, dtype=x.dtype, device=x.device)
        return self._denoised(x, levels, torch.full((x.shape[0],), t.item(), dtype=t.dtype, device=x.device))

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise slices ``x`` (B, C, H, W) at noise levels ``sigma`` (B, 1, 1, 1)."""
        return self._denoised(x, sigma, self.timestep((sigma * self._scale).reshape(-1)))

    def _denoised(self, x: Tensor, sigma: Tensor, timestep: Tensor) -> Tensor:
        noisy, level = x * self._scale + self._offset, sigma * self._scale
        shrink = (1.0 + level**2).rsqrt()  # sqrt(abar)
        t = timestep.to(x.device)
        output = self.network(noisy * shrink, timesteps=t)
        output = checked(output, x, "denoiser ddpm", learned_variance=True)
        if self.prediction_type == "epsilon":
            clean = noisy - level * output
        elif self.prediction_type == "v_prediction":
            clean = shrink * (noisy * shrink - level * output)  # sqrt(1 - abar) = level sqrt(abar)
        else:
            clean = output
        return (clean - self._offset) / self._scale

    def timestep(self, level: Tensor) -> Tensor:
        """Return the timesteps of noise levels (B,) in the units of ``data_range``."""
        steps = timestep_of(level.detach().cpu(), self._levels, interpolate=self.interpolate)
        return steps + self._first


def _range(data_range: object) -> tuple[float, float]:
    if not isinstance(data_range, (list, tuple)) or len(data_range) != 2:
        raise ConfigError("not a range", where="denoiser#data_range", expected="[low, high]", got=repr(data_range))
    low = check_number(data_range[0], "denoiser#data_range")
    return low, check_number(data_range[1], "denoiser#data_range", low=low, open_low=True)


def _table(
    explicit: Sequence[float] | Tensor | None, schedule: str, timesteps: int, beta_start: float, beta_end: float
) -> Tensor:
    """Return the abar of each timestep in float64."""
    if explicit is None:
        name = check_choice(schedule, "denoiser#schedule", SCHEDULES)
        count = check_integer(timesteps, "denoiser#num_train_timesteps", low=2)
        start = check_number(beta_start, "denoiser#beta_start", low=0.0, high=0.999, open_low=True)
        end = check_number(beta_end, "denoiser#beta_end", low=start, high=0.999)
        return alphas_cumprod(name, count, start, end)
    table = torch.as_tensor(explicit, dtype=torch.float64).cpu()
    falls = table.ndim == 1 and len(table) >= 2 and bool((table.diff() < 0.0).all())
    if not (falls and float(table[-1]) > 0.0 and float(table[0]) <= 1.0) or int((table < 1.0).sum()) < 2:
        raise ConfigError(
            "not the cumulative products of a schedule",
            where="denoiser#alphas_cumprod",
            expected="two or more decreasing numbers above 0 and at most 1",
            got=f"{tuple(table.shape)} from {table.flatten()[:1].tolist()} to {table.flatten()[-1:].tolist()}",
        )
    return table
