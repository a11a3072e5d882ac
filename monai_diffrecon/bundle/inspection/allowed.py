# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a bundle may use without asking: a table by where things are defined. Everything else is refused.

A row is added only for computations: nothing that runs code, starts processes, downloads, unpickles, or looks up
Python names given as strings. ``docs/security.md`` shows the same table.
"""

from __future__ import annotations

#: All public classes and functions.
ALL = "*"
#: Module (and all below it) -> names of the classes and functions in it, without the ``d`` of MONAI's dictionary
#: versions; :data:`ALL` for all of them.
ALLOWED: dict[str, str] = {
    "functools": "partial",
    "math": ALL,
    "pathlib": "Path",
    "ignite.engine": "Engine",
    "ignite.handlers": "EMAHandler EarlyStopping TerminateOnNan TimeLimit",
    "ignite.metrics": "Average Loss MeanAbsoluteError MeanSquaredError RunningAverage",
    "monai.data": "ArrayDataset CacheDataset DataLoader Dataset decollate_batch list_data_collate",
    "monai.engines": "SupervisedEvaluator SupervisedTrainer",
    "monai.handlers": (
        "EarlyStopHandler LrScheduleHandler MeanAbsoluteError MeanSquaredError PeakSignalToNoiseRatio StatsHandler "
        "ValidationHandler from_engine"
    ),
    "monai.inferers": "SimpleInferer SliceInferer SlidingWindowInferer",
    "monai.losses": "DiceCELoss DiceLoss JukeboxLoss SSIMLoss",
    "monai.metrics": "DiceMetric MAEMetric MSEMetric PSNRMetric RMSEMetric SSIMMetric",
    "monai.networks.nets": (
        "AttentionUnet AutoencoderKL BasicUNet BasicUNetPlusPlus DiffusionModelUNet DynUNet SegResNet SwinUNETR UNETR "
        "UNet VNet"
    ),
    "monai.transforms.compose": "Compose OneOf RandomOrder SomeOf",
    "monai.transforms.croppad": ALL,
    "monai.transforms.intensity": ALL,
    "monai.transforms.post": ALL,
    "monai.transforms.smooth_field": ALL,
    "monai.transforms.spatial": ALL,
    "monai.transforms.utility": (
        "AsChannelLast CastToType ConcatItems ConvertToMultiChannelBasedOnBratsClasses CopyItems DeleteItems "
        "EnsureChannelFirst EnsureType Identity Lambda RepeatChannel SelectItems SplitDim SqueezeDim ToDevice ToNumpy "
        "ToTensor Transpose"
    ),
    "monai.utils": "set_determinism",
    "monai_diffrecon": (
        "CohortEvaluation DiffReconInferer FloorPaddingd LoadMeasurementd LoadVolumed NonFiniteGuard PreviewPictures "
        "ProgressBar ReconstructionEvaluator ResampleInPlaned SimulateMeasurementd StepEvents StepMetrics "
        "UnconditionalCases VolumeGridd by_family check_command_line chosen_options list_cases load_auxiliaries "
        "load_region load_score_network own_root report_errors_in_one_line"
    ),
    "monai_diffrecon.consistency": ALL,
    "monai_diffrecon.denoisers": ALL,
    "monai_diffrecon.networks": ALL,
    "monai_diffrecon.noises": ALL,
    "monai_diffrecon.operators": ALL,
    "monai_diffrecon.priors": ALL,
    "monai_diffrecon.regularizers": ALL,
    "monai_diffrecon.samplers": ALL,
    "monai_diffrecon.training": ALL,
    "numpy": (
        "abs absolute arange array asarray ceil clip concatenate cos cumsum deg2rad exp flip float32 float64 floor "
        "full int64 interp linspace log log10 logspace max mean median min ones pad percentile prod quantile round "
        "sin sqrt stack std sum tan tile transpose zeros"
    ),
    "torch": ("Size arange cat device exp full linspace log logspace manual_seed ones sqrt stack tensor zeros"),
    "torch.cuda": "device_count is_available is_bf16_supported",
    "torch.nn.modules": ALL,
    "torch.optim": ALL,
    "torch.utils.data": "DataLoader",
}
#: The builtins that only compute; the others execute or reach anything.
BUILTINS = (
    "abs all any bool bytes complex dict divmod enumerate filter float frozenset int isinstance len list map max min "
    "pow range repr reversed round set slice sorted str sum tuple zip"
)
#: Attributes of values that may be read or called; all others are refused, so data give no access to the system.
ATTRIBUTES = (
    "T device dtype ema_model eval fromkeys get intensity item items keys lower name ndim network parameters parent "
    "plane run shape spacing split state_dict stem suffix to tolist train upper values"
)


def allowed(module: str, name: str) -> bool:
    """Return whether the table has a class or function.

    Args:
        module: where it is defined.
        name: its name there.
    """
    parts = module.split(".")
    rows = (ALLOWED.get(".".join(parts[:n]), "") for n in range(1, len(parts) + 1))
    return any(row == ALL or {name, name.removesuffix("d")} & {*row.split()} for row in rows)


def may_be_bound(module: str) -> bool:
    """Return whether an expression may import a module under a name: one with rows of the table in it, or in a row."""
    inside = (row for row, names in ALLOWED.items() if names == ALL)
    return any(f"{row}.".startswith(f"{module}.") for row in ALLOWED) or any(module.startswith(f"{r}.") for r in inside)
