# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Building an imported network and trying it on small slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, IntegrityError, NumericalError
from monai_diffrecon.numerics.noise import keyed_normal
from monai_diffrecon.protocols import Denoiser

#: Sizes of which a slice may have to be a multiple.
MULTIPLES = (8, 16, 32, 64, 128)
_LIMIT_OF_NAMES = 400


def build_network(network_def: Mapping[str, Any], state_dict: Mapping[str, Tensor], where: str) -> nn.Module:
    """Return the network as a bundle would build it, weights loaded strictly, in evaluation mode.

    Raises:
        IntegrityError: the definition holds what MONAI's configuration parser would evaluate.
        InputError: it cannot be built, or the weights do not fit it; the message names them.
    """
    from monai.bundle import ConfigParser

    if active := _active_texts(network_def):
        raise IntegrityError("network_def holds more than data", where=where, got=", ".join(active)[:_LIMIT_OF_NAMES])
    try:
        network = ConfigParser({"network_def": dict(network_def)}).get_parsed_content("network_def")
    except Exception as error:  # MONAI wraps any exception of a constructor
        cause = error.__cause__ or error
        raise InputError("network_def cannot be built", where=where, got=f"{cause}"[:_LIMIT_OF_NAMES]) from error
    if not isinstance(network, nn.Module):
        raise InputError("network_def is not a network", where=where, got=type(network).__name__)
    try:
        network.load_state_dict(dict(state_dict), strict=True)
    except RuntimeError as error:
        raise InputError("weights do not fit the network", where=where, got=str(error)[:_LIMIT_OF_NAMES]) from None
    return network.eval().requires_grad_(False)


def _active_texts(value: object) -> list[str]:
    """Return the texts that MONAI would evaluate, look up or load."""
    if isinstance(value, str):
        return [value] if value.startswith(("$", "@", "%")) else []
    if isinstance(value, Mapping):
        return [text for k, v in value.items() for text in _active_texts(v)]
    return [text for v in value for text in _active_texts(v)] if isinstance(value, (list, tuple)) else []


@torch.no_grad()
def find_multiple(network: nn.Module, channels: int, where: str) -> tuple[int, int]:
    """Return of what size a slice has to be a multiple, and the channels that the network returns.

    The network is called with one tensor, as MONAI calls a bundle's network.

    Raises:
        InputError: it takes no slice of a size tried.
        NumericalError: it returns numbers that are not finite.
    """
    reason: object = None
    for multiple in MULTIPLES:
        # Thrice: a power of 2 would hide that the network wants a higher one.
        slices = 0.5 + 0.2 * keyed_normal((1, channels, 3 * multiple, 3 * multiple), torch.float32, "trial", multiple)
        try:
            output = network(slices)
        except (RuntimeError, ValueError, TypeError, AssertionError, DiffReconError) as error:
            reason = " ".join(str(error).split())[:200]
            continue
        if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[2:] != slices.shape[2:]:
            reason = f"an output of shape {tuple(getattr(output, 'shape', ()))} for slices {tuple(slices.shape)}"
            continue
        if not bool(torch.isfinite(output).all()):
            raise NumericalError("the network returns numbers that are not finite", where=where)
        return multiple, int(output.shape[1])
    raise InputError(
        "the network takes no slice",
        where=where,
        expected=f"slices (1, {channels}, H, W) of a size that is 3 times one of {MULTIPLES}, as its only argument",
        got=reason,
    )


def build_denoiser(spec: Mapping[str, Any], network: nn.Module, where: str) -> tuple[Denoiser, dict[str, Any]]:
    """Return the denoiser of a spec and the spec with its noise levels written out.

    Four digits, so that 0.01000050 is the 0.01 at which samplers end.
    """
    at = f"{where}, denoiser"
    denoiser: Denoiser = registry.build("denoisers", dict(spec), where=at, network=network)
    levels = {"sigma_min": denoiser.sigma_min, "sigma_max": denoiser.sigma_max}
    complete = {**{k: float(f"{v:.4g}") for k, v in levels.items()}, **spec}
    try:
        return registry.build("denoisers", complete, where=at, network=network), complete
    except ConfigError:  # a denoiser whose noise levels are no options
        return denoiser, dict(spec)


@torch.no_grad()
def check_denoiser(denoiser: Denoiser, channels: int, multiple: int, where: str) -> None:
    """Denoise a slice at both ends of the noise levels and between.

    Raises:
        InputError: an output of another shape.
        NumericalError: numbers that are not finite.
    """
    low, high = denoiser.sigma_min, denoiser.sigma_max
    for sigma in (low, (low * high) ** 0.5, high):
        noise = keyed_normal((1, channels, 3 * multiple, 3 * multiple), torch.float32, "trial", sigma)
        denoised = denoiser(0.5 + sigma * noise, sigma)
        if denoised.shape != noise.shape:
            raise InputError(
                "its shape differs from the slice's", where=where, expected=tuple(noise.shape), got=denoised.shape
            )
        if not bool(torch.isfinite(denoised).all()):
            raise NumericalError(f"the denoised slice is not finite at sigma {sigma:g}", where=where)
