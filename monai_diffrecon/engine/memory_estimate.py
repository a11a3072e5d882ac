# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How much memory a reconstruction will take."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from monai_diffrecon.engine.machine_memory import available_memory, peak_memory, resident_memory
from monai_diffrecon.engine.memory_trial import trial

if TYPE_CHECKING:
    from monai_diffrecon.engine.inferer import DiffReconInferer

logger = logging.getLogger(__name__)

#: Code that is loaded, and kernels that are generated, when they are used first.
_CODE = 45_000_000

#: What a trial finds of this process's memory; the rest is of other devices.
_HOST = ("setup_peak", "setup", "resident", "measurement", "operator", "volumes", "network")

#: Of a volume (float32): what is held at a time while it is compared, drawn and written.
_RECORDING = 9

#: Where it cannot be found out: volumes that a step holds, features of a network, layers of them at a time.
_VOLUMES, _FEATURES, _LAYERS = 24, 32, 6

#: With so many times the rule of thumb free, nobody needs to look closer.
_AMPLE = 3


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a reconstruction takes at its peak, all in this process's memory unless ``devices`` says otherwise.

    The parts need not be at their largest at the same time, and freed memory is not always given back, so the total is
    not quite their sum.

    Attributes:
        base: what the process has taken already.
        measurement: the measurement.
        operator: the operator's tables.
        volumes: volumes that the sampler, the consistency step and the prior hold.
        network: activations of one call of the network.
        total: the process's memory at the peak.
        devices: other device -> bytes there.
        approximate: a rule of thumb, since the run could not be tried.
    """

    base: int
    measurement: int
    operator: int
    volumes: int
    network: int
    total: int
    devices: Mapping[str, int] = field(default_factory=dict)
    approximate: bool = False

    def lines(self) -> list[str]:
        """Return the estimate for people, a line a device."""
        parts = ("measurement", "operator", "volumes", "network")
        detail = ", ".join(f"{name} {_size(getattr(self, name))}" for name in parts)
        about = "roughly" if self.approximate else "about"
        lines = [f"memory: {about} {_size(self.total)} (before the run {_size(self.base)}; {detail})"]
        return lines + [f"memory of {device}: {about} {_size(size)}" for device, size in self.devices.items()]

    def summary(self) -> str:
        """Return the estimate in a few words."""
        return " and ".join([_size(self.total), *(f"{_size(n)} of {device}" for device, n in self.devices.items())])

    def check(self, available: Mapping[str, int | None] | int | None = None) -> list[str]:
        """Return a line of warning for each device that has less than the run will take.

        Args:
            available: bytes that are free, of the machine or by device (``cpu`` is the machine); None asks the system.
        """
        free = _free(self.devices) if available is None else available
        free = free if isinstance(free, Mapping) else {"cpu": free}
        lines = []
        for device, needed in {"cpu": self.total - self.base, **self.devices}.items():
            left = free.get(device)
            if left is not None and needed > left:
                where = "" if device == "cpu" else f" of {device}"
                needs = f"the run will take about {_size(needed)} more, {_size(left)} are free"
                lines.append(f"memory{where} may not suffice: {needs}")
        return lines


def estimate_memory(
    inferer: DiffReconInferer, measurement: Tensor, network: nn.Module | None = None, *, base: int | None = None
) -> MemoryEstimate:
    """Estimate the memory that ``inferer.reconstruct(measurement, network)`` will take; a second or a few.

    The run is tried without numbers in a child process (``memory_trial``). Where that is not possible, as with a
    plugin that leaves torch, the estimate is a rule of thumb.

    Args:
        inferer: the inferer.
        measurement: the measurement, without a batch axis.
        network: the primary network; None takes the bundle's.
        base: memory of the process before the run; None takes what it is now.
    """
    base = resident_memory() if base is None else base
    shape = inferer.volume_geometry(measurement).shape
    recording = _RECORDING * 4 * math.prod(shape)
    found = trial(inferer, measurement, network)
    if found is None:
        logger.info("the run cannot be tried without numbers: its memory is estimated by a rule of thumb")
        return _rule_of_thumb(inferer, measurement, shape, base)
    grown = max(found["setup_peak"], found["setup"] + _CODE + max(found["resident"], recording))
    return MemoryEstimate(
        base=base,
        measurement=found["measurement"],
        operator=found["operator"],
        volumes=found["volumes"],
        network=found["network"],
        total=max(base + grown, peak_memory()),
        devices={name: size for name, size in found.items() if name not in _HOST},
    )


def memory_warnings(inferer: DiffReconInferer, measurement: Tensor, network: nn.Module | None = None) -> list[str]:
    """Return lines of warning when a run may not have the memory that it will take; costs nothing with plenty of it.

    Args:
        inferer: the inferer.
        measurement: the measurement, without a batch axis.
        network: the primary network; None takes the bundle's.
    """
    rough = _rule_of_thumb(inferer, measurement, inferer.volume_geometry(measurement).shape, resident_memory())
    ample = replace(
        rough,
        total=rough.base + _AMPLE * (rough.total - rough.base),
        devices={device: _AMPLE * size for device, size in rough.devices.items()},
    )
    return estimate_memory(inferer, measurement, network).check() if ample.check() else []


def _rule_of_thumb(
    inferer: DiffReconInferer, measurement: Tensor, shape: tuple[int, int, int], base: int
) -> MemoryEstimate:
    voxels = 4 * math.prod(shape) * (2 if torch.as_tensor(measurement).is_complex() else 1)
    held = torch.as_tensor(measurement).numel() * torch.as_tensor(measurement).element_size()
    largest = math.prod(shape) // min(shape)
    network = 4 * largest * inferer.sw_batch_size * _FEATURES * _LAYERS // 4
    volumes = _VOLUMES * voxels
    device = torch.device(inferer.device or "cpu").type
    total = base + _CODE + 3 * held + volumes + (network if device == "cpu" else 0)
    return MemoryEstimate(
        base=base,
        measurement=held,
        operator=0,
        volumes=volumes,
        network=network,
        total=total,
        devices={} if device == "cpu" else {device: network},
        approximate=True,
    )


def _free(devices: Mapping[str, int]) -> dict[str, int | None]:
    return {device: available_memory(device) for device in ("cpu", *devices)}


def _size(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.0f} MB"
