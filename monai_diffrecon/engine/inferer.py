# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The MONAI inferer that reconstructs a volume from a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import collate_meta_tensor
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_diffrecon import distributed
from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.engine.memory.memory_estimate import MemoryEstimate
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.recipe import Recipe
from monai_diffrecon.engine.reconstruct_posed import plane_notices, reconstruct_posed
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.engine.run_report import Reconstruction
from monai_diffrecon.engine.store.volume_store import stored
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_flag
from monai_diffrecon.io.measurement.metatensor import affine_of
from monai_diffrecon.protocols import Measurement, VolumeGeometry

_OF_RECIPE = {field.name for field in fields(Recipe) if field.init}


class DiffReconInferer(Inferer):
    """Reconstructs a volume from a measurement.

    ``inferer(inputs, network)`` is MONAI's contract, so one bundle serves ``monai.bundle run``, MONAI Label and
    MONAI Deploy. Plugins, built-in or third-party, are given as ``{"name": ..., **options}`` and looked up in the
    registry. The name may also be a class; an instance is used as it is; both may be nested. A run with an object of an
    unregistered class cannot be resumed or repeated from its record; a notice is then logged.

    Args:
        score: the primary network with its metadata.
        operator: spec of the forward operator.
        prior: spec of the score prior.
        consistency: spec of the consistency step.
        sampler: spec of the sampler.
        auxiliaries: networks of other planes.
        noise: spec of the noise source.
        runtime: spec of what executes the networks.
        sw_batch_size: slices per network call; ``auto`` takes 8 on a CPU, and on a GPU as many as its size asks for and
            its free memory allows.
        window: largest slice (height, width) processed whole; None takes the bundle's.
        overlap: overlap of windows.
        seed: seed of the noise source.
        noise_std: noise of the measurement, in its own units; None takes the measurement's own value, or 0.
        spacing_tolerance: largest relative difference of voxel size from the training data's.
        device: device of the networks, which are moved there; None takes that of their weights.
        volume_device: device of operator, measurement and volumes; None takes that of the primary network. ``cpu``
            keeps the volumes in the memory of the host, and only slices visit the GPU.
        precision: ``float32``, or ``bfloat16``, ``float16`` or ``tf32`` (CUDA only) for the matrix products inside the
            networks; ``auto`` takes ``bfloat16`` on processors with AMX and GPUs of compute capability 8 and above, and
            ``float32`` elsewhere.
        complex: how complex volumes are denoised: ``phase`` (a smooth phase and a prior of magnitudes) or ``channels``
            (real and imaginary part). Ignored for real volumes.
        num_samples: number of posterior samples, drawn one after the other; with 2 or more the result is their mean and
            spread. The first sample equals the volume of a single-sample run.
        keep_samples: also return every sample.
        share: what the processes of ``torchrun`` share out. ``slices``: each holds the volume, and denoises some of its
            slices. ``slabs``: each holds a part of the volume, and the first returns the whole. ``samples``: each draws
            some of the samples. ``cases``: each has cases of its own, by
            :class:`~monai_diffrecon.engine.cases.evaluator.ReconstructionEvaluator`, and computes what it is given here
            by itself. Voxels are the same, those of slabs within rounding; in a single process it has no effect.
        volume_store: ``zarr``, or ``{"name": "zarr", "slab_gb": 0.25}``, keeps the volume on the disk, beside the
            checkpoint, and reconstructs it slab by slab; ``slab_gb`` is roughly the memory of a slab. For volumes
            larger than the memory. None keeps it in memory.
        flips: turn the slices of a plane before each network call, and back after it, by the eight symmetries of the
            square in turn (the four flips where pixels are not square).
        tune: ``{"option": "consistency#noise_weight", "values": [0.3, 1, 3]}`` chooses the value of an option for each
            measurement: the one that predicts best a held-out part of it (``held_out``, default 0.1), in the middle of
            the volume (``slices``, default 32). None takes the options as they are.
        adaptation: true, or a mapping with any of ``steps``, ``learning_rate``, ``layers``, ``held_out``, ``slices``,
            ``patch``: adapts the last layers of a copy of the network to each measurement, by held-out parts of it.
        progress: show a progress bar; None shows it on a terminal only.
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
        runtime: Any = "torch",
        sw_batch_size: int | str = 8,
        window: Sequence[int] | None = None,
        overlap: float = 0.25,
        seed: int = 0,
        noise_std: float | None = None,
        spacing_tolerance: float = 0.05,
        device: torch.device | str | None = None,
        volume_device: torch.device | str | None = None,
        precision: str = "float32",
        complex: str = "phase",
        num_samples: int = 1,
        keep_samples: bool = False,
        share: str = "slices",
        volume_store: Any = None,
        flips: bool = False,
        tune: Any = None,
        adaptation: Any = None,
        progress: bool | None = None,
        handlers: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        self.recipe = Recipe(
            score,
            tuple(auxiliaries),
            {
                "operator": operator,
                "prior": prior,
                "consistency": consistency,
                "sampler": sampler,
                "noise": noise,
                "runtime": runtime,
            },
            sw_batch_size=sw_batch_size,
            window=window,
            overlap=overlap,
            seed=seed,
            noise_std=noise_std,
            spacing_tolerance=spacing_tolerance,
            device=device,
            volume_device=volume_device,
            precision=precision,
            complex=complex,
            num_samples=num_samples,
            keep_samples=keep_samples,
            share=share,
            volume_store=volume_store,
            flips=flips,
            tune=tune,
            adaptation=adaptation,
        )
        self.progress = None if progress is None else check_flag(progress, "inferer#progress")
        self.handlers = tuple(handlers)

    def __getattr__(self, name: str) -> Any:
        """Return attributes of the recipe: ``score``, ``specs``, ``seed`` and so on."""
        if name == "recipe":  # not made yet
            raise AttributeError(name)
        return getattr(self.recipe, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; setting one of the recipe's builds and checks a new recipe.

        Raises:
            ConfigError: an option of the wrong type, or out of its range.
        """
        if name in _OF_RECIPE:
            self.recipe = replace(self.recipe, **{name: value})
        else:
            super().__setattr__(name, value)

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Reconstruct a batch of measurements (B, ...) and return the volumes (B, 1, X, Y, Z) on the same device.

        The volumes are a batch as MONAI's ``DataLoader`` makes them: an entry of it, or of ``decollate_batch``, is a
        ``MetaTensor`` (1, X, Y, Z) with the affine of its volume, whose grid is seldom that of the measurement.

        Args:
            inputs: measurements. The metadata of the ``MetaTensor`` carries the affine of an image, or else the
                geometry of the volume.
            network: the primary network.
            args: not accepted; part of MONAI's signature.
            kwargs: not accepted.

        Raises:
            ConfigError: arguments that would be ignored.
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
            volume = done.volume.to(inputs.device)
            volumes.append(MetaTensor(volume, affine=torch.as_tensor(affine_of(done.geometry))))
        return collate_meta_tensor(volumes)

    def pose(self, measurement: Tensor, network: nn.Module | None = None, *, case: str = "") -> PosedCase:
        """Return a posed case for inspection and reconstruction; everything is computed lazily.

        Args:
            measurement: the measurement, without a batch axis.
            network: the primary network; None takes the bundle's.
            case: name of the case, part of the noise seed.
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
        """Reconstruct one measurement; the volumes returned are on the CPU.

        Args:
            measurement: the measurement, without a batch axis; or a posed case with its own network and name.
            network: the primary network; None takes the bundle's.
            case: name of the case, part of the noise seed.
            handlers: further handlers for every sample of this run.
            checkpoint: stores the state of the run and where an interrupted run stopped. The caller removes it once
                the result is written.
            run_id: its MLflow run, for the checkpoint.

        Raises:
            ResumeMismatchError: the checkpoint belongs to another run.
        """
        posed = measurement if isinstance(measurement, PosedCase) else self.pose(measurement, network, case=case)
        store_of = stored(posed.recipe.volume_store, checkpoint)
        with distributed.alone(self.share == "cases"), distributed.together(), store_of as store:
            return reconstruct_posed(
                posed,
                handlers=(*self.handlers, *handlers),
                checkpoint=checkpoint,
                run_id=run_id,
                progress=self.progress,
                store=store,
            )

    def check(self, measurement: Tensor | PosedCase, network: nn.Module | None = None) -> Measurement:
        """Raise the errors that :meth:`reconstruct` raises before its first step; return the measurement.

        Args:
            measurement: the measurement, without a batch axis, or a posed case.
            network: the primary network; None takes the bundle's.

        Raises:
            InputError: the scan has the wrong kind, shape or unit.
            ConfigError: options or networks that do not fit the scan.
        """
        case = measurement if isinstance(measurement, PosedCase) else self.pose(measurement, network)
        with stored(self.recipe.volume_store) as store:
            engine = self.recipe.engine(case.posed.problem, case.network, mend=case.posed.mend, store=store)
            engine.prepare()  # on the CPU, where the case was posed
        return replace(case.measured, notices=(*case.posed.notices, *plane_notices(engine)))

    def memory_estimate(self, measurement: Tensor, network: nn.Module | None = None) -> MemoryEstimate:
        """Return a rough memory estimate of :meth:`reconstruct`, without reconstructing anything.

        Args:
            measurement: the measurement, without a batch axis.
            network: the primary network; None takes the bundle's.
        """
        return self.pose(measurement, network).memory

    def identity(self, measurement: Tensor, case: str = "", network: nn.Module | None = None) -> dict[str, str]:
        """Return everything that determines the voxels of a reconstruction as name -> value; nothing is computed.

        Args:
            measurement: the measurement, without a batch axis.
            case: name of the case.
            network: the primary network; None takes the bundle's.
        """
        return self.pose(measurement, network, case=case).identity

    def volume_geometry(self, measurement: Tensor) -> VolumeGeometry:
        """Return the geometry of the volume to be reconstructed from a measurement; nothing is computed.

        Args:
            measurement: the measurement, without a batch axis.

        Raises:
            InputError: entries that are not finite, or a measurement without the geometry of its volume.
            ConfigError: options of the operator that contradict the measurement.
        """
        return self.pose(measurement).geometry
