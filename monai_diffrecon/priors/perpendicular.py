# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Networks of perpendicular planes, used in alternation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.planes import check_plane, planes_across
from monai_diffrecon.protocols import NoiseSource, Operator, PlaneDenoiser, SamplerState, ScorePrior


class PerpendicularPrior(ScorePrior):
    """3D prior from two or three perpendicular planes (TPDM, arXiv 2303.08440, section 3).

    The model is the product of the planes; alternating them approximates it with one network call per step.

    Args:
        K: order of the planes. An integer from 2: the primary planes in turn, except at the last of every K
            steps, which goes to the auxiliary planes in turn. A fraction above 1, such as 2.7: a primary plane with
            probability 1 - 1/K, drawn anew for each step. ``"average"``: the mean of all planes at each step.
        primary: the plane, or the planes, that are primary, whichever bundle comes first; None: that of the first
            bundle. ``"auto"``: the planes across the thick slices that were measured, which see them side by side
            (thick axial slices from the coronal and the sagittal plane); without thick slices as None.
        share: plane without a network -> plane whose network it shares, where that one is bound. What a network
            knows of edges and tissue is mostly the same in another plane.

    Raises:
        ConfigError: another K, or no such plane.
    """

    in_slabs = True
    min_planes = 2
    max_planes = 3
    former_options: ClassVar[dict[str, str]] = {"borrow": "share"}
    _across: tuple[str, ...] = ()

    def __init__(
        self,
        K: int | float | str = 2,
        primary: str | Sequence[str] | None = None,
        share: Mapping[str, str] | None = None,
    ) -> None:
        whole = isinstance(K, int) and not isinstance(K, bool) and K >= 2
        # NaN compares false, and the remainder of an infinity is NaN.
        broken = isinstance(K, float) and K > 1.0 and K % 1.0 > 0.0
        if not (whole or broken or K == "average"):
            raise ConfigError(
                "unknown order of planes",
                where="prior#K",
                expected='an integer from 2, a fraction above 1, or "average"',
                got=repr(K),
            )
        self.K = K
        self.auto = primary == "auto"
        named = () if primary is None or self.auto else (primary,) if isinstance(primary, str) else tuple(primary)
        self.primary = tuple(check_plane(plane, "prior#primary") for plane in named)
        self.share = {
            check_plane(plane, "prior#share"): check_plane(owner, "prior#share")
            for plane, owner in (share or {}).items()
        }

    def observe(self, operator: Operator) -> None:
        """Learn along which axis slices are thick."""
        self._across = () if operator.thick_plane is None else planes_across(operator.thick_plane)

    def bind(self, planes: Sequence[PlaneDenoiser], noise: NoiseSource | None = None) -> None:
        """Take the plane denoisers and the noise source; the primary planes come first.

        Raises:
            ConfigError: too few or too many planes, one twice, or a primary plane without a network.
        """
        networks = {p.plane: p for p in planes}
        shared = [
            networks[owner].for_plane(plane)
            for plane, owner in self.share.items()
            if plane not in networks and owner in networks
        ]
        super().bind([*planes, *shared], noise)
        bound = [p.plane for p in self.planes]
        primary = tuple(p for p in self._across if p in bound) if self.auto else self.primary
        if missing := [plane for plane in primary if plane not in bound]:
            raise ConfigError(
                "no network for this plane",
                where="prior#primary",
                expected=" or ".join(bound),
                got=", ".join(missing),
                mend="name a plane that has a bundle or shares one, or null",
            )
        order = [*primary, *(plane for plane in bound if plane not in primary)]
        self.planes = tuple(sorted(self.planes, key=lambda p: order.index(p.plane)))
        self._leading = max(len(primary), 1)

    def denoise(self, x: Tensor, sigma: float, state: SamplerState) -> Tensor:
        """Return the clean estimate of the volume ``x`` (C, X, Y, Z) at noise level ``sigma``."""
        active = self.planes_at(state.step)
        total = self._call(self.planes[active[0]], x, sigma)
        for index in active[1:]:
            total = total + self._call(self.planes[index], x, sigma)
        return total / len(active) if len(active) > 1 else total

    def _call(self, plane: PlaneDenoiser, x: Tensor, sigma: float) -> Tensor:
        return plane(x, sigma)

    def planes_at(self, step: int) -> tuple[int, ...]:
        """Return the indices of the planes whose networks are called at this step; the primary ones come first.

        Raises:
            ConfigError: ``bind`` was not called, or without the noise source that a fraction K needs.
        """
        if not self.planes:
            raise ConfigError("used before bind(planes, noise)", where="prior perpendicular")
        auxiliaries = len(self.planes) - self._leading
        if isinstance(self.K, str):
            return tuple(range(len(self.planes)))
        if isinstance(self.K, int):
            turn, within = divmod(step, self.K)
            if auxiliaries and within == self.K - 1:
                return (self._leading + turn % auxiliaries,)
            return ((step - turn if auxiliaries else step) % self._leading,)
        if self.noise is None:
            raise ConfigError(
                "a random order of planes needs a noise source",
                where="prior#K",
                got=self.K,
                mend="bind(planes, noise), or an integer K",
            )
        # What of [0, 1) lies beyond the primaries' share is divided evenly among the auxiliaries.
        beyond = (self.noise.uniform(step, stream="perpendicular") - (1.0 - 1.0 / self.K)) * self.K
        if beyond < 0.0 or not auxiliaries:
            return (step % self._leading,)
        return (self._leading + min(int(beyond * auxiliaries), auxiliaries - 1),)
