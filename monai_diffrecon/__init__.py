# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reconstruct 3D CT and MR volumes from few measurements with pre-trained 2D diffusion models.

What is public stands here, or in one of the packages named here; every other module may move.
"""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import exports, lazy
from monai_diffrecon._version import __version__

if TYPE_CHECKING:
    # A reconstruction.
    from monai_diffrecon.api.files import read_scan, write_volume
    from monai_diffrecon.api.reconstructor import Reconstructor, load, reconstruct
    from monai_diffrecon.api.result import ReconstructionResult
    from monai_diffrecon.stacks.combine import combine_stacks

    # isort: split
    # What bundles are made of, beside networks, training and transforms.
    from monai_diffrecon.bundle.choices import chosen_options
    from monai_diffrecon.bundle.own_root import own_root
    from monai_diffrecon.bundle.score_network import load_auxiliaries, load_score_network
    from monai_diffrecon.engine.cases.evaluator import ReconstructionEvaluator
    from monai_diffrecon.engine.cases.list_cases import list_cases
    from monai_diffrecon.engine.inferer import DiffReconInferer
    from monai_diffrecon.errors.uncaught import report_errors_in_one_line
    from monai_diffrecon.io.region import load_region
    from monai_diffrecon.options.command_line import check_command_line

    # isort: split
    # What plugins are made of.
    from monai_diffrecon.errors import DiffReconError
    from monai_diffrecon.protocols import (
        API_VERSION,
        CheckpointImporter,
        ClassicalSampler,
        ConsistencyStep,
        Denoiser,
        Measurement,
        MeasurementReader,
        Metric,
        NoiseSource,
        Operator,
        Regularizer,
        Sampler,
        ScorePrior,
        VolumeGeometry,
        VolumeWriter,
    )
    from monai_diffrecon.sampling import LadderSampler, corrected_estimate, fresh

    # isort: split
    from monai_diffrecon import (
        comparison,
        consistency,
        denoisers,
        errors,
        evaluation,
        networks,
        noises,
        operators,
        presets,
        priors,
        protocols,
        registry,
        regularizers,
        samplers,
        sampling,
        testing,
        training,
        transforms,
    )
else:
    __getattr__ = lazy(__name__)

    def __dir__() -> list[str]:
        return ["__version__", *sorted(exports(__name__))]
