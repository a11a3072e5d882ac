# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What an orientation test found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from monai_diffrecon.protocols import PLANE_AXIS

#: Flipped axes of a slice of the orientations 0 to 3; 4 to 7 are the same, transposed afterwards.
FLIPS: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (0, 1))
#: A level is informative when the network takes away at least a tenth of the noise there, in some orientation.
INFORMATIVE = 0.9
#: Another orientation is called better from this relative gain on; below it lies what few slices leave to chance.
CLEARLY = 0.02
#: A loss above this means that the network makes the slice worse.
HARMFUL = 1.1
#: What the brightest voxels of a sample should be in network units, where 1 is the top of the window; nearly empty
#: slices are easy to denoise, and say nothing for a network.
BRIGHT = (0.1, 10.0)


@dataclass(frozen=True)
class OrientationReport:
    """Score-matching losses of eight orientations at several noise levels.

    Attributes:
        plane: plane of the slices.
        slices: number of slices.
        sigmas: noise levels, network units.
        losses: loss of each orientation (8) at each level; orientation 0 is RAS+ order.
        bright: 99th percentile of the magnitude of their voxels, network units.
    """

    plane: str
    slices: int
    sigmas: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    bright: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the orientations, in terms of the volume's axes."""
        axes = [axis for i, axis in enumerate("XYZ") if i != PLANE_AXIS[self.plane]]
        flips = [[f"flip {axes[a]}" for a in flipped] for flipped in FLIPS]
        return tuple(
            ", ".join([*words, *(["transpose"] if transposed else [])]) or "RAS+ order"
            for transposed in (False, True)
            for words in flips
        )

    @property
    def informative(self) -> tuple[int, ...]:
        """Places of the levels at which the network denoises the slices in some orientation."""
        return tuple(k for k in range(len(self.sigmas)) if min(row[k] for row in self.losses) < INFORMATIVE)

    @property
    def gains(self) -> tuple[float, ...]:
        """Part of the loss of RAS+ order that each orientation saves, averaged over the informative levels."""
        levels = self.informative
        if not levels:
            return (0.0,) * len(self.losses)
        return tuple(sum(1.0 - row[k] / self.losses[0][k] for k in levels) / len(levels) for row in self.losses)

    @property
    def best(self) -> int:
        """The orientation with the largest gain; RAS+ order unless another one is clearly better."""
        best = max(range(len(self.losses)), key=self.gains.__getitem__)
        return best if self.gains[best] > CLEARLY else 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """Doubts about the bundle from the losses, one clause each."""
        if not BRIGHT[0] <= self.bright <= BRIGHT[1]:
            return (
                f"the sample's bright voxels are {self.bright:.3g} in network units, but usually about 1; its "
                "losses are meaningless: check --intensity and the sample's units",
            )
        if not self.informative:
            return (
                "the network denoises the sample in no orientation: check --plane, --intensity and --spacing, and "
                "that the sample resembles the training data",
            )
        found = []
        if self.best:
            found.append(
                f"the network fits the sample better by {self.gains[self.best]:.0%} when its {self.plane} slices are "
                f"turned ({self.names[self.best]}): it was trained on another orientation or plane"
            )
        harmful = [k for k in range(len(self.sigmas)) if self.losses[self.best][k] > HARMFUL]
        if harmful:
            levels = ", ".join(f"{self.sigmas[k]:.3g}" for k in harmful)
            found.append(
                f"the network makes the sample worse at sigma {levels}: check --intensity and the noise levels"
            )
        return tuple(found)

    def table(self) -> list[str]:
        """Return the lines of a table: losses by orientation and level, and the gain over RAS+ order."""
        width = max(map(len, self.names))
        lines = [f"{'sigma':{width}}" + "".join(f"{s:>9.3g}" for s in self.sigmas) + "     gain"]
        for name, row, gain in zip(self.names, self.losses, self.gains, strict=True):
            lines.append(f"{name:{width}}" + "".join(f"{loss:>9.4f}" for loss in row) + f"{gain:>+9.1%}")
        return lines

    def describe(self) -> dict[str, Any]:
        """Return what the metadata of a bundle says of the test."""
        return {
            "loss": "E||D(x0 + sigma n, sigma) - x0||^2 / (D sigma^2)",
            "slices": self.slices,
            "bright": float(f"{self.bright:.4g}"),
            "sigmas": [float(f"{s:.4g}") for s in self.sigmas],
            "losses": {
                name: [float(f"{v:.4g}") for v in row] for name, row in zip(self.names, self.losses, strict=True)
            },
            "best": self.names[self.best],
            "warnings": list(self.warnings),
        }
