# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reconstructions of prepared volumes by the tasks of a bundle, with a network in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from monai_diffrecon.bundle.config import content_of, merged_config
from monai_diffrecon.bundle.score_network import ScoreNetwork, load_score_network
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.problem.simulation import Simulation, simulate
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.io.measurement.metatensor import geometry_of, to_tensor
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.training.slice_patches import PreparedVolume


@dataclass(frozen=True)
class LoopCase:
    """A simulated measurement, and how it is reconstructed.

    Attributes:
        inferer: the inferer of the task.
        posed: the posed measurement.
        truth: the measured volume (1, X, Y, Z) in network units.
    """

    inferer: DiffReconInferer
    posed: PosedCase
    truth: Tensor

    def reconstruct(self, *handlers: Any) -> Tensor:
        """Return the reconstruction (1, X, Y, Z) in network units."""
        done = self.inferer.reconstruct(self.posed, handlers=handlers)
        return self.posed.posed.intensity.to_network(done.volume.as_subclass(Tensor))


class LoopTasks:
    """The tasks of a bundle, as they are run by default, with one network for all planes.

    Args:
        bundle: root of the bundle whose tasks, denoiser and intensities are used, not its network.
        network: the network, the moving average for instance.
        tasks: name -> ``{"task": task of the bundle, "overrides": {id: value}, "draw": {id: [values]}}``. Of ``draw``,
            training takes one value each at random; validation takes none.
        size: most voxels of a sub-volume along X, Y, Z.
        spacing: voxel size (mm) that all volumes are said to have; None: their own.
        precision: that of the network's matrix products.

    Raises:
        ConfigError: an unknown task or id.
    """

    def __init__(
        self,
        bundle: str,
        network: nn.Module,
        tasks: Mapping[str, Mapping[str, Any]],
        size: Sequence[int] = (128, 128, 40),
        spacing: Sequence[float] | None = None,
        precision: str = "auto",
    ) -> None:
        self.bundle, self.network, self.tasks = Path(bundle), network, dict(tasks)
        self.size, self.precision = tuple(size), precision
        self.spacing = spacing
        self.score = replace(load_score_network(self.bundle), network=network, name="network in training")
        for name in self.tasks:
            self._config(name, {})

    def case(self, name: str, volume: PreparedVolume, rng: np.random.Generator | None = None) -> LoopCase:
        """Measure a sub-volume of a prepared volume.

        Args:
            name: name of the task.
            volume: the volume.
            rng: draws the sub-volume, the settings and the noise; None takes the middle and the task as it is.
        """
        drawn, seed = {}, 0
        if rng is not None:
            choices = self.tasks[name].get("draw", {}).items()
            drawn, seed = {key: values[rng.integers(len(values))] for key, values in choices}, int(rng.integers(2**31))
        config = self._config(name, drawn)
        x, unit = torch.from_numpy(_part(volume.voxels, self.size, rng).astype(np.float32))[None], "arbitrary"
        kind = dict(self.score.intensity)
        if kind.pop("map") == "window":
            x, unit = IntensityMap.window(**kind).to_physical(x), "HU"
        a, b, c = (float(s) for s in self.spacing or volume.spacing)
        how = Simulation(config["operator"], config["simulate_noise"], seed=seed)
        geometry = geometry_of(x.shape[1:], np.diag([a, b, c, 1.0]))
        measured, operator = simulate(x, geometry, how, unit=unit)
        tensor = to_tensor(replace(measured, simulated=True), image=operator.measured_geometry())
        scores = {"score": self._score("axial", (a, b)), "auxiliaries": (self._score("coronal", (a, c)),)}
        inferer: DiffReconInferer = content_of(ConfigParser({**config, **scores, "seed": seed}), "inferer")
        inferer.progress = False
        posed = inferer.pose(tensor, case=name)
        return LoopCase(inferer, posed, posed.posed.intensity.to_network(x))

    def _config(self, name: str, drawn: Mapping[str, Any]) -> dict[str, Any]:
        task = self.tasks[name]
        if unknown := set(task) - {"task", "overrides", "draw"}:
            raise ConfigError("not a key of a task", where=f"loop task {name}", got=", ".join(sorted(unknown)))
        device = str(next(self.network.parameters()).device)
        overrides = {**task.get("overrides", {}), **drawn, "precision": self.precision, "device": device}
        return merged_config(self.bundle, task=task["task"], overrides=overrides, where=f"loop task {name}").get()

    def _score(self, plane: str, spacing: tuple[float, float]) -> ScoreNetwork:
        return replace(self.score, plane=plane, spacing=spacing, name=f"{plane} network in training")


def _part(voxels: np.ndarray, size: Sequence[int], rng: np.random.Generator | None) -> np.ndarray:
    """Return a sub-volume: the middle, or one at random that is not mostly empty."""
    spare = [max(n - m, 0) for n, m in zip(voxels.shape, size, strict=True)]
    part = voxels
    for _ in range(8):
        start = [n // 2 if rng is None else int(rng.integers(n + 1)) for n in spare]
        part = voxels[tuple(slice(a, a + m) for a, m in zip(start, size, strict=True))]
        if rng is None or np.count_nonzero(part > 0.02) >= 0.3 * part.size:
            break
    return np.asarray(part)
