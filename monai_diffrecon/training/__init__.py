# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Training a score network: data, loss and handlers for a MONAI trainer."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.training.autocast_inferer import AutocastInferer
    from monai_diffrecon.training.denoising_batch import DenoisingBatch
    from monai_diffrecon.training.denoising_loss import DenoisingLoss
    from monai_diffrecon.training.handlers import EpochCounter, GradientClip, MovingAverage, TrapezoidSchedule
    from monai_diffrecon.training.iterate_buffer import IterateBatch, IterateCollector
    from monai_diffrecon.training.loop_report import LoopReport
    from monai_diffrecon.training.loop_tasks import LoopTasks
    from monai_diffrecon.training.noise_level_report import NoiseLevelReport
    from monai_diffrecon.training.resumable_checkpoint import ResumableCheckpoint
    from monai_diffrecon.training.slice_patches import SlicePatches
else:
    __getattr__ = lazy(__name__)
