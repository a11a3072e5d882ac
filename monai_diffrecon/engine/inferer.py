# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The MONAI inferer that reconstructs a volume from a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.engine.memory.memory_estimate import MemoryEstimate
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.recipe import Recipe
from monai_diffrecon.engine.reconstruct_posed import plane_notices, reconstruct_posed
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.engine.run_report import Reconstruction
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.protocols import Measurement, VolumeGeometry

_OF_RECIPE = {field.name for field in fields(Recipe) if field.init}


class DiffReconInferer(Inferer):
    """Reconstructs a volume from a measurement; all physics is reachable from here.

    ``inferer(inputs, network)`` is MONAI's contract, so one bundle serves ``monai.bundle run``, MONAI Label and
    MONAI Deploy. Plugins are given as ``{"name": ..., **options}`` and looked up in the registry, built-in or
    third-party alike. The name may be a class; an instance is taken as it is; both may be nested. A run with an object
    that is no registered class cannot be resumed or repeated from its record, and a notice says so.

    Args:
        score: the primary network with its metadata.
        operator: spec of the forward operator.
        prior: spec of the score prior.
        consistency: spec of the consistency step.
        sampler: spec of the sampler.
        auxiliaries: networks of other planes.
        noise: spec of the noise source.
        sw_batch_size: slices a network call.
        window: largest slice (height, width) in one piece; None takes the bundle's.
        overlap: overlap of windows.
        seed: seed of the noise source.
        noise_std: noise of the measurement, in its own units; None takes what the measurement says, else 0.
        spacing_tolerance: largest relative difference of voxel size from the training data's.
        device: where the networks compute; None: where their weights are.
        precision: ``float32``, or ``bfloat16`` or ``float16`` for the products inside the networks.
        complex: how complex volumes are denoised: ``phase`` (a smooth phase and a prior of magnitudes) or ``channels``
            (real and imaginary part). Real volumes do not care.
        num_samples: samples of the posterior, drawn one after the other; of 2 or more the result is the mean, and comes
            with its spread. The first is the volume of a run of one.
        keep_samples: hand over every sample too.
        progress: show a progress bar; None: on a terminal only.
        handlers: further handlers with ``attach(engine)`` for the reconstruction engine.

    Raises:
        ConfigError: an option of the wrong type, or out of its range.
    """

    def __init__(
        self,
        score: ScoreNetwork,
        operator: Any,
        prior: Any = "slices",
        consistency: Any = "conjugate_gradient",
        sampler: Any = "pnp_hqs",
        auxiliaries: Sequence[ScoreNetwork] = (),
        *,
        noise: Any = "independent",
        sw_batch_size: int = 8,
        window: Sequence[int] | None = None,
        overlap: float = 0.25,
        seed: int = 0,
        noise_std: float | None = None,
        spacing_tolerance: float = 0.05,
        device: torch.device | str | None = None,
        precision: str = "float32",
        complex: str = "phase",
        num_samples: int = 1,
        keep_samples: bool = False,
        progress: bool | None = None,
        handlers: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        self.recipe = Recipe(
            score,
            tuple(auxiliaries),
            {"operator": operator, "prior": prior, "consistency": consistency, "sampler": sampler, "noise": noise},
            sw_batch_size=sw_batch_size,
            window=window,
            overlap=overlap,
            seed=seed,
            noise_std=noise_std,
            spacing_tolerance=spacing_tolerance,
            device=device,
            precision=precision,
            complex=complex,
            num_samples=num_samples,
            keep_samples=keep_samples,
        )
        self.progress = None if progress is None else check_flag(progress, "inferer#progress")
        self.handlers = tuple(handlers)

    def __getattr__(self, name: str) -> Any:
        """Return what is not the inferer's own from its recipe: ``score``, ``specs``, ``seed`` and so on."""
        if name == "recipe":  # not made yet
            raise AttributeError(name)
        return getattr(self.recipe, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; one of the recipe's makes a new recipe, checked like the first.

        Raises:
            ConfigError: an option of the wrong type, or out of its range.
        """
        if name in _OF_RECIPE:
            self.recipe = replace(self.recipe, **{name: value})
        else:
            super().__setattr__(name, value)

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Reconstruct a batch of measurements (B, ...) and return the volumes (B, 1, X, Y, Z).

        Args:
            inputs: measurements; an image carries its affine, anything else its volume's geometry, in the
                metadata of a ``MetaTensor``.
            network: the primary network.
            args: not accepted; MONAI's signature has them.
            kwargs: not accepted.

        Raises:
            ConfigError: arguments that no one would read.
        """
        if args or kwargs:
            raise ConfigError(
                "takes inputs and network only",
                where="inferer",
                got=[*map(repr, args), *kwargs],
                mend="set options in the config",
            )
        volumes = []
        for item in inputs:
            done = self.reconstruct(item, network)
            volumes.append(MetaTensor(done.volume, affine=torch.as_tensor(affine_of(done.geometry))))
        return torch.stack(volumes)

    def pose(self, measurement: Tensor, network: nn.Module | None = None, *, case: str = "") -> PosedCase:
        """Return a measurement to be looked at and reconstructed; nothing is computed before it is asked for.

        Args:
            measurement: the measurement, without a batch axis.
            network: the primary network; None takes the bundle's.
            case: name of the case, part of the noise's key.
        """
        return PosedCase(self.recipe, measurement, case, network)

    def reconstruct(
        self,
        measurement: Tensor | PosedCase,
        network: nn.Module | None = None,
        *,
        case: str = "",
        handlers: Sequence[Any] = (),
        checkpoint: RunCheckpoint | None = None,
        run_id: str | None = None,
    ) -> Reconstruction:
        """Reconstruct one measurement.

        Args:
            measurement: the measurement, without a batch axis; or a posed one, which has its network and name.
            network: the primary network; None takes the bundle's.
            case: name of the case, part of the noise's key.
            handlers: further handlers for this run, of every sample.
            checkpoint: keeps the state of the run, and says where an interrupted one stopped. It is the caller's to
                remove when the result is safe.
            run_id: MLflow run that it is tracked in, for the checkpoint.

        Raises:
            ResumeMismatchError: the checkpoint is of another run.
        """
        posed = measurement if isinstance(measurement, PosedCase) else self.pose(measurement, network, case=case)
        return reconstruct_posed(
            posed,
            handlers=(*self.handlers, *handlers),
            checkpoint=checkpoint,
            run_id=run_id,
            progress=self.progress,
        )

    def check(self, measurement: Tensor | PosedCase, network: nn.Module | None = None) -> Measurement:
        """Refuse what :meth:`reconstruct` refuses before its first step; return what it will reconstruct from.

        Args:
            measurement: the measurement, without a batch axis, or a posed one.
            network: the primary network; None takes the bundle's.

        Raises:
            InputError: the scan is of another kind, shape or unit than is needed.
            ConfigError: options or networks that do not fit the scan.
        """
        case = measurement if isinstance(measurement, PosedCase) else self.pose(measurement, network)
        engine = self.recipe.engine(case.posed.problem, case.network, mend=case.posed.mend)
        engine.prepare()
        return replace(case.measured, notices=(*case.posed.notices, *plane_notices(engine)))

    def memory_estimate(self, measurement: Tensor, network: nn.Module | None = None) -> MemoryEstimate:
        """Return roughly what :meth:`reconstruct` will take of memory; the problem is posed, nothing is reconstructed.

        Args:
            measurement: the measurement, without a batch axis.
            network: the primary network; None takes the bundle's.
        """
        return self.pose(measurement, network).memory

    def identity(self, measurement: Tensor, case: str = "", network: nn.Module | None = None) -> dict[str, str]:
        """Return all that decides on the voxels of a reconstruction, as name -> value; nothing is computed.

        Args:
            measurement: the measurement, without a batch axis.
            case: name of the case.
            network: the primary network; None takes the bundle's.
        """
        return self.pose(measurement, network, case=case).identity

    def volume_geometry(self, measurement: Tensor) -> VolumeGeometry:
        """Return the geometry of the volume that a measurement will become; nothing is computed.

        Args:
            measurement: the measurement, without a batch axis.

        Raises:
            InputError: entries that are not finite, or a measurement that does not say its volume.
            ConfigError: options of the operator that contradict the measurement.
        """
        return self.pose(measurement).geometry
