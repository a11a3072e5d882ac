# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Memory that a reconstruction needs, by a rule of thumb."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from monai_diffrecon.engine.memory.batch_size import chosen_batch_size
from monai_diffrecon.engine.memory.machine_memory import available_memory, resident_memory
from monai_diffrecon.protocols import Problem

#: Volumes and copies of the measurement that sampler, consistency step and prior hold at the peak. Counted: 7 to 10
#: volumes by conjugate gradients, 13 to 20 by ADMM, 11 of 8 coils; a start whose error is estimated simulates another
#: measurement.
_VOLUMES, _MEASUREMENTS = 11, 2

#: Volumes that the spread of samples takes: the first sample, and sums and squares of three parts.
_SPREAD = 7

#: Feature maps of full size that a network holds at a time, with gradients; their width when no convolution tells it.
_MAPS, _MAPS_OF_GRADIENTS, _WIDTH = 3, 6, 32

#: Part of the free memory that the activations of one call may take when the batch size is chosen.
_SHARE = 0.5

#: Bytes of code that is loaded, and kernels that are generated, when they are used first.
_CODE = 45_000_000


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak bytes of a reconstruction: a rule of thumb, good to a factor of 2.

    Attributes:
        base: what the process already uses, including the measurement and the operator.
        measurement: the measurement.
        operator: the operator's tables.
        volumes: what the sampler, the consistency step and the prior hold.
        network: activations of one call of the network.
        total: the process's memory at the peak.
        devices: other device -> bytes there.
    """

    base: int
    measurement: int
    operator: int
    volumes: int
    network: int
    total: int
    devices: Mapping[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the estimate as text, one line per device."""
        parts = ("measurement", "operator", "volumes", "network")
        detail = ", ".join(f"{name} {_size(getattr(self, name))}" for name in parts)
        lines = [f"memory: roughly {_size(self.total)} (before the run {_size(self.base)}; {detail})"]
        return lines + [f"memory of {device}: roughly {_size(size)}" for device, size in self.devices.items()]

    def summary(self) -> str:
        """Return the estimate in a few words."""
        return " and ".join([_size(self.total), *(f"{_size(n)} of {device}" for device, n in self.devices.items())])

    def check(self, available: Mapping[str, int | None] | int | None = None) -> list[str]:
        """Return one warning for each device with less memory than the run needs.

        Args:
            available: bytes that are free, of the machine or by device (``cpu`` is the machine); None asks the system.
        """
        needed = {"cpu": self.total - self.base, **self.devices}
        free = {device: available_memory(device) for device in needed} if available is None else available
        free = free if isinstance(free, Mapping) else {"cpu": free}
        lines = []
        for device, size in needed.items():
            left = free.get(device)
            if left is not None and size > left:
                where = "" if device == "cpu" else f" of {device}"
                needs = f"the run needs roughly {_size(size)} more, and {_size(left)} are free"
                lines.append(f"memory{where} may be insufficient: {needs}")
        return lines


def estimate_memory(
    problem: Problem,
    activations: Mapping[torch.device, int] | int = 0,
    *,
    samples: int = 1,
    kept: int = 0,
    volume_device: torch.device | None = None,
) -> MemoryEstimate:
    """Estimate the memory that a reconstruction needs beyond what the process already uses.

    Args:
        problem: the posed problem.
        activations: bytes of a call of the networks on each device, see :func:`network_memory`; a number: on the CPU.
        samples: number of samples.
        kept: samples that are kept until the end.
        volume_device: where operator, measurement and volumes will be; None: the CPU.
    """
    measured = problem.measurement.numel() * problem.measurement.element_size()
    voxel = 8 if problem.operator.complex_volume else 4
    held = _VOLUMES + kept + (_SPREAD if samples > 1 else 0)
    volumes = held * voxel * math.prod(problem.operator.volume_shape)
    operator = sum(table.numel() * table.element_size() for table in problem.operator.buffers())
    calls = {torch.device("cpu"): activations} if isinstance(activations, int) else activations
    base, sizes = resident_memory(), Counter({str(device): size for device, size in calls.items()})
    home = str(volume_device or "cpu")
    sizes[home] += volumes + (_MEASUREMENTS - 1) * measured
    if home != "cpu":  # what is on the host already is copied there
        sizes[home] += measured + operator
    return MemoryEstimate(
        base=base,
        measurement=measured,
        operator=operator,
        volumes=volumes,
        network=max(calls.values(), default=0),
        total=base + _CODE + sizes.pop("cpu", 0),
        devices={name: size for name, size in sizes.items() if size},
    )


def network_memory(
    network: nn.Module,
    shape: Sequence[int],
    *,
    batch_size: int | str,
    window: Sequence[int] | None = None,
    gradients: bool = False,
    device: torch.device | None = None,
) -> int:
    """Return roughly the bytes of activations of one call of a network (float32).

    Args:
        network: the network; its first convolution tells the width of its feature maps.
        shape: the volume's axes (X, Y, Z); the largest slices count.
        batch_size: slices per call; ``auto``: as chosen for the device.
        window: largest slice (height, width) processed whole.
        gradients: the call keeps activations for the backward pass.
        device: where the network computes; None: the CPU.
    """
    width = next((weight.shape[0] for weight in network.parameters() if weight.ndim == 4), _WIDTH)
    pixels = math.prod(shape) // min(shape)
    pixels = pixels if window is None else min(pixels, math.prod(window))
    if isinstance(batch_size, str):
        batch_size = chosen_batch_size(device or torch.device("cpu"), max(shape), 1, pixels)
    return 4 * min(batch_size, max(shape)) * pixels * width * (_MAPS_OF_GRADIENTS if gradients else _MAPS)


def fitting_slices(network: nn.Module, device: torch.device, height: int, width: int) -> int | None:
    """Return roughly how many slices per network call fit into the free memory of a device; None if unknown."""
    free = available_memory(device)
    each = network_memory(network, (1, height, width), batch_size=1)
    return None if free is None else int(_SHARE * free / max(each, 1))


def _size(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.0f} MB"
