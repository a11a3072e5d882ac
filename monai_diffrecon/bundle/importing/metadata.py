# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``metadata.json`` of an imported bundle."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from monai_diffrecon._version import __version__
from monai_diffrecon.bundle.importing.imported_bundle import NO_SAMPLE, UNKNOWN, ImportedBundle, harmless
from monai_diffrecon.numerics.pixel_range import PixelRange
from monai_diffrecon.protocols import PLANE_AXIS

_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_VERSION = "0.1.0"
_PACKAGES = ("mlflow", "nibabel", "pytorch-ignite")


def metadata_of(bundle: ImportedBundle, weights_sha256: str) -> dict[str, Any]:
    """Return the metadata of a bundle: what the schema of the model zoo asks for, and the block ``diffrecon``.

    Args:
        bundle: the imported network.
        weights_sha256: hash of ``models/model.pt``.
    """
    said = bundle.declaration
    importer, importer_version = bundle.distribution
    packages = {"monai-diffrecon": __version__, importer: importer_version}
    return {
        "schema": _SCHEMA,
        "version": _VERSION,
        "changelog": {_VERSION: f"imported by `diffrecon import-checkpoint` (importer {bundle.importer})"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {**{k: version(k) for k in _PACKAGES}, **packages},
        "name": bundle.name,
        "task": "Reconstruction of 3D volumes from few measurements with a 2D diffusion prior",
        "description": f"A 2D diffusion network for {said.plane} slices, imported from a checkpoint; composed by "
        "monai_diffrecon with a forward operator, a consistency step and a sampler.",
        "authors": UNKNOWN,
        "copyright": UNKNOWN,
        "data_source": UNKNOWN,
        "data_type": "nibabel",
        "image_classes": f"intensity in network units, {bundle.declaration.intensity}",
        "pred_classes": "output of the network, see diffrecon#denoiser",
        "eval_metrics": {},
        "intended_use": "Research on image reconstruction; not for clinical use",
        "references": [],
        "supported_apps": {},
        "network_data_format": {
            "inputs": {"image": _tensor(1, bundle.multiple, {"0": f"noisy {said.plane} slice"})},
            # MONAI Label takes named channels of the output for labels, and MONAI Deploy casts an image to 8 bits.
            "outputs": {"pred": _tensor(bundle.outputs, bundle.multiple, {}) | {"type": "series"}},
        },
        "diffrecon": _block(bundle, weights_sha256),
    }


def _block(bundle: ImportedBundle, weights_sha256: str) -> dict[str, Any]:
    said, (low, high) = bundle.declaration, bundle.sigma_range
    pixels = said.spacing
    sizes = (
        {"spacing_range": [pixels.low, pixels.high], "spacing_ratio": pixels.ratio}
        if isinstance(pixels, PixelRange)
        else {"spacing": list(pixels)}
    )
    axes = ", ".join(axis for i, axis in enumerate("XYZ") if i != PLANE_AXIS[said.plane])
    return {
        "schema": 1,
        "plane": said.plane,
        **sizes,
        "axis_order": f"RAS+; a slice is ({axes})",
        "intensity": said.intensity,
        "denoiser": bundle.denoiser,
        "parameterization": f"as the denoiser {bundle.denoiser['name']} takes it; sigma {low:g} to {high:g} in network "
        "units, x0 + sigma n",
        "weights": {"file": "models/model.pt", "sha256": weights_sha256, "dtype": bundle.dtype},
        "window": None if said.window is None else list(said.window),
        "licence": bundle.licence,
        "training": {"data": UNKNOWN},
        "source": {
            "files": [{"name": harmless(name), "sha256": digest} for name, digest in bundle.source.items()],
            "importer": bundle.importer,
            "distribution": " ".join(bundle.distribution),
            "notes": [harmless(note) for note in bundle.notes],
        },
        "orientation_test": NO_SAMPLE if bundle.orientation is None else bundle.orientation.describe(),
    }


def _tensor(channels: int, multiple: int, definition: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "magnitude",
        "modality": "n/a",
        "num_channels": channels,
        "spatial_shape": [f"{multiple}*n", f"{multiple}*n"],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": definition,
    }
