# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Contract of a slice denoiser, and of what executes its network."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from monai_diffrecon.protocols.plugin import Plugin


class Denoiser(Plugin, nn.Module, ABC):
    """``D(x, sigma) -> E[x0 | x]`` for a batch of slices with ``x = x0 + sigma n``.

    The only place where a network's own parameterization (score, epsilon, v, sample, preconditioned) is
    converted. Everything above it knows only D. (Karras et al. 2022, arXiv 2206.00364, equation 3.)

    Args:
        network: the wrapped network, weights loaded.
        sigma_min: smallest noise level the network was trained for, in network units.
        sigma_max: largest noise level the network was trained for, in network units.

    Attributes:
        takes_position: it is called with a third argument where its network has the attribute ``position``: where each
            pixel lies in the volume, along X, Y, Z from -1 to 1, (B, 3, H, W).
    """

    takes_position: ClassVar[bool] = False

    def __init__(self, network: nn.Module, *, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        self.network = network
        self.sigma_min = float(sigma_min)
        self.sigma_max = float(sigma_max)

    @abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise slices ``x`` (B, C, H, W) at noise levels ``sigma`` (B, 1, 1, 1)."""

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Denoise slices (B, C, H, W); ``sigma`` is one number or one a slice, (B,), in network units."""
        return self.denoise(x, levels_like(x, sigma))


def levels_like(x: Tensor, sigma: Tensor | float) -> Tensor:
    """Return noise levels (B, 1, 1, 1) of slices (B, C, H, W), given as one number or one a slice."""
    if isinstance(sigma, Tensor):
        levels = sigma.to(x.device, x.real.dtype).reshape(-1, 1, 1, 1)
    else:  # filled on the device: an upload would make the processor wait
        levels = torch.full((1, 1, 1, 1), sigma, dtype=x.real.dtype, device=x.device)
    return levels.expand(x.shape[0], 1, 1, 1)


class PlaneDenoiser(ABC):
    """Denoises every slice of a volume in one anatomical plane; it handles batching and windows itself.

    Attributes:
        plane: ``sagittal``, ``coronal`` or ``axial``.
        sigma_min: smallest noise level of the network.
        sigma_max: largest noise level of the network.
    """

    plane: str
    sigma_min: float
    sigma_max: float

    def for_plane(self, plane: str) -> PlaneDenoiser:
        """Return a denoiser of another plane that uses the same network."""
        other = copy.copy(self)
        other.plane = plane
        return other

    @abstractmethod
    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Denoise a volume (C, X, Y, Z) at one noise level; same shape out."""


class Runtime(Plugin, ABC):
    """Executes the 2D network of a denoiser. Every option of the constructor has a default.

    Attributes:
        differentiable: gradients reach the input, as guided consistency steps need it.
        devices: types of the devices whose tensors it takes, such as ``cpu``; empty for all.
        precisions: the values of ``precision`` that it knows.
    """

    differentiable: ClassVar[bool] = False
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    precisions: ClassVar[tuple[str, ...]] = ("float32",)

    @abstractmethod
    def load(self, network: nn.Module, *, precision: str) -> Callable[..., Tensor]:
        """Return a function that is called as the network is, and returns what the network returns.

        The denoiser gives slices (B, C, H, W) and one level a slice, (B,), the latter by position or by name. Shapes,
        and the number of threads of torch, may differ from call to call. The network is left as it is, and ``network``
        itself may be returned. Nothing is computed before the first call.

        Args:
            network: the network, weights loaded.
            precision: of its matrix products, one of ``precisions``.

        Raises:
            ConfigError: what executes the network is not installed.
        """
