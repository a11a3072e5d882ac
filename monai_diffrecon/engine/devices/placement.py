# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The device of a network, and problems and states on a device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from monai_diffrecon.protocols import Problem, SamplerState


def indexed(device: torch.device | str) -> torch.device:
    """Return a device with its index: ``cuda`` is the current GPU."""
    if str(device) == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(device)


def network_device(network: nn.Module, device: torch.device | str | None = None) -> torch.device:
    """Return the device where a network computes.

    Args:
        network: the network.
        device: the one that was asked for; None: that of the weights, the CPU without any.
    """
    if device is not None:
        return indexed(device)
    return next((weight.device for weight in network.parameters()), torch.device("cpu"))


def problem_on(problem: Problem, device: torch.device | str) -> Problem:
    """Return a problem on a device. Its operator is moved in place, as ``nn.Module.to`` does."""
    return replace(problem, operator=problem.operator.to(device), measurement=problem.measurement.to(device))


def state_on(state: SamplerState, device: torch.device | str) -> SamplerState:
    """Return a state on a device, with the same strides; the given one stays as it is."""
    memory = {key: {name: kept.to(device) for name, kept in inner.items()} for key, inner in state.memory.items()}
    return replace(state, x=state.x.to(device), memory=memory)


def device_facts(device: torch.device, precision: str) -> dict[str, Any]:
    """Return what of a GPU and its libraries may change the last bits of a voxel; empty for the CPU.

    Args:
        device: where the networks compute.
        precision: that of the networks.
    """
    if device.type != "cuda":
        return {}
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "device_name": torch.cuda.get_device_name(device),
        "capability": f"{major}.{minor}",
        "tf32": precision == "tf32",
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
    }
