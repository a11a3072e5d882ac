# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The abstract base classes of plugins, and the state of a run."""

from monai_diffrecon.protocols.consistency_step import ConsistencyStep
from monai_diffrecon.protocols.denoiser import Denoiser, PlaneDenoiser, Runtime
from monai_diffrecon.protocols.evaluation.executor import Executor
from monai_diffrecon.protocols.evaluation.metric import Metric
from monai_diffrecon.protocols.evaluation.phantom_metric import (
    Curve,
    Finding,
    PhantomMetric,
    PhantomScan,
    Picture,
    QualityResult,
    Quantity,
    Site,
)
from monai_diffrecon.protocols.files import (
    CheckpointImporter,
    ImportedNetwork,
    MeasurementReader,
    VolumeOrigin,
    VolumeWriter,
)
from monai_diffrecon.protocols.geometry import PLANE_AXIS, Padding, Plane, VolumeGeometry
from monai_diffrecon.protocols.measurement import Measurement
from monai_diffrecon.protocols.noise_source import NoiseSource
from monai_diffrecon.protocols.operator import Operator, Problem
from monai_diffrecon.protocols.plugin import API_VERSION, Plugin
from monai_diffrecon.protocols.regularizer import Regularizer
from monai_diffrecon.protocols.sampler import ClassicalSampler, Denoise, Sampler
from monai_diffrecon.protocols.sampler_state import SamplerState
from monai_diffrecon.protocols.score_prior import ScorePrior

__all__ = [
    "API_VERSION",
    "PLANE_AXIS",
    "CheckpointImporter",
    "ClassicalSampler",
    "ConsistencyStep",
    "Curve",
    "Denoise",
    "Denoiser",
    "Executor",
    "Finding",
    "ImportedNetwork",
    "Measurement",
    "MeasurementReader",
    "Metric",
    "NoiseSource",
    "Operator",
    "Padding",
    "PhantomMetric",
    "PhantomScan",
    "Picture",
    "Plane",
    "PlaneDenoiser",
    "Plugin",
    "Problem",
    "QualityResult",
    "Quantity",
    "Regularizer",
    "Runtime",
    "Sampler",
    "SamplerState",
    "ScorePrior",
    "Site",
    "VolumeGeometry",
    "VolumeOrigin",
    "VolumeWriter",
]
