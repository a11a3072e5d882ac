# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Law tests that every plugin must pass, for authors of plugins."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.testing.consistency_laws import check_consistency
    from monai_diffrecon.testing.denoiser_laws import check_denoiser
    from monai_diffrecon.testing.dense_operator import DenseOperator
    from monai_diffrecon.testing.execution.executor_laws import check_executor
    from monai_diffrecon.testing.execution.runtime_laws import check_runtime
    from monai_diffrecon.testing.gaussian_prior import GaussianPrior
    from monai_diffrecon.testing.metric_laws import check_metric
    from monai_diffrecon.testing.noise_laws import check_noise
    from monai_diffrecon.testing.operator_laws import OperatorLaws, check_operator
    from monai_diffrecon.testing.phantoms.stress import branching_vessels, twisting_tube
    from monai_diffrecon.testing.phantoms.vessel_tree import grow_tree
    from monai_diffrecon.testing.prior_laws import check_prior
    from monai_diffrecon.testing.reader_laws import check_reader
    from monai_diffrecon.testing.regularizer_laws import check_regularizer
    from monai_diffrecon.testing.sampler_laws import check_sampler
    from monai_diffrecon.testing.writer_laws import check_writer
else:
    __getattr__ = lazy(__name__)
