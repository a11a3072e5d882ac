# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A published checkpoint becomes a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_diffrecon import registry
from monai_diffrecon.bundle.importing.declaration import Declaration
from monai_diffrecon.bundle.importing.find_importer import AUTO, read_checkpoint
from monai_diffrecon.bundle.importing.imported_bundle import ImportedBundle, harmless
from monai_diffrecon.bundle.importing.orientation_report import OrientationReport
from monai_diffrecon.bundle.importing.orientations import check_orientation, choose_slices
from monai_diffrecon.bundle.importing.trial import build_denoiser, build_network, check_denoiser, find_multiple
from monai_diffrecon.bundle.importing.write_bundle import check_target, write_bundle
from monai_diffrecon.errors import InputError
from monai_diffrecon.errors.options import check_choice, check_integer
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.numerics.intensity import IntensityMap
from monai_diffrecon.numerics.pixel_range import describe_pixels, nearest_pixel
from monai_diffrecon.protocols import PLANE_AXIS, Denoiser, VolumeGeometry

#: Types of stored weights.
DTYPES = ("float32", "float16")
#: Largest relative difference of a sample's voxel size from the declared one.
_SPACING_TOLERANCE = 0.05
HALF_NOTE = "rounded weights to float16, but for vectors"
_SUFFIXES = (".json", ".safetensors", ".bin")


def import_checkpoint(
    checkpoint: str | Path,
    target: str | Path,
    declaration: Declaration,
    *,
    importer: str = AUTO,
    sample: str | Path | None = None,
    sample_slices: int = 4,
    dtype: str = "float32",
    declared: Mapping[str, Any] | None = None,
    force: bool = False,
) -> ImportedBundle:
    """Write the bundle of a checkpoint, completely or not at all.

    Args:
        checkpoint: the file, or a folder of the library diffusers.
        target: root of the new bundle.
        declaration: plane, voxel size, intensity map and licence.
        importer: name of the importer; ``auto`` asks each installed one.
        sample: a NIfTI volume of the network's kind, for the orientation test.
        sample_slices: slices of it that are tested.
        dtype: type of the stored weights. ``float16`` spares vectors, which hardly weigh: embedding frequencies,
            biases, normalization.
        declared: what the user states of the network to the importer.
        force: replace a bundle.

    Raises:
        ConfigError: an option is wrong.
        InputError: the target exists, the checkpoint or the sample is unsuitable, or the network takes no slices.
        IntegrityError: the checkpoint would run code.
        NumericalError: the network returns numbers that are not finite.
        PluginError: no such importer.
    """
    check_choice(dtype, "--dtype", DTYPES)
    check_integer(sample_slices, "--sample-slices", low=1)
    path = check_target(target, force=force)
    volume = None if sample is None else _read_sample(sample, declaration)
    source = _hashes(Path(checkpoint))
    name, plugin, content = read_checkpoint(checkpoint, importer)
    imported = plugin.convert(content, **dict(declared or {}))
    del content
    where = f"import {name}"
    if imported.channels != 1:
        raise InputError(
            f"a network of {imported.channels} channels",
            where=where,
            expected="1: real and imaginary part are denoised one by one",
            mend="import a network for magnitude images",
        )
    weights = _stored(imported.state_dict, dtype, where)
    network = build_network(imported.network_def, weights, where)
    multiple, outputs = find_multiple(network, imported.channels, where)
    denoiser, spec = build_denoiser(imported.denoiser, network, where)
    check_denoiser(denoiser, imported.channels, multiple, where)
    report = None if volume is None else _test_orientation(denoiser, volume, declaration, multiple, sample_slices)
    bundle = ImportedBundle(
        name=harmless(path.name),
        declaration=declaration,
        source=source,
        importer=name,
        distribution=_distribution(name),
        notes=(*imported.notes, *([] if dtype == "float32" else [HALF_NOTE])),
        network_def=dict(imported.network_def),
        state_dict=weights,
        dtype=dtype,
        denoiser=spec,
        sigma_range=(denoiser.sigma_min, denoiser.sigma_max),
        multiple=multiple,
        outputs=outputs,
        orientation=report,
    )
    write_bundle(bundle, path)
    return bundle


def _hashes(checkpoint: Path) -> dict[str, str]:
    """Return name -> sha256 of the file, or of all files of a folder that can belong to a checkpoint."""
    if not checkpoint.is_dir():
        return {checkpoint.name: sha256_file(checkpoint)}
    found = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.suffix in _SUFFIXES)
    return {str(p.relative_to(checkpoint)): sha256_file(p) for p in found}


def _read_sample(path: str | Path, declaration: Declaration) -> Tensor:
    """Return a sample (1, X, Y, Z) in network units."""
    volume, geometry = read_volume(path)
    _check_spacing(geometry, declaration)
    options = dict(declaration.intensity)
    kind = options.pop("map")
    mapping = IntensityMap.window(**options) if kind == "window" else IntensityMap.percentile(volume, **options)
    return mapping.to_network(volume)


def _check_spacing(geometry: VolumeGeometry, declaration: Declaration) -> None:
    across = PLANE_AXIS[declaration.plane]
    found = [s for axis, s in enumerate(geometry.spacing) if axis != across]
    wanted = nearest_pixel(declaration.spacing, found)
    if any(abs(a - b) > _SPACING_TOLERANCE * b for a, b in zip(found, wanted, strict=True)):
        raise InputError(
            "its voxel size is not the declared one",
            where="--sample",
            expected=f"{describe_pixels(declaration.spacing)} in the {declaration.plane} plane",
            got=f"{found[0]:.3g} x {found[1]:.3g} mm",
            mend="resample the sample, or correct --spacing or --spacing-range",
        )


def _stored(weights: Mapping[str, Tensor], dtype: str, where: str) -> dict[str, Tensor]:
    """Return the weights as they are stored.

    Vectors keep float32: a frequency of 40 rounded to float16 turns the phase of an embedding by half a radian.
    """
    if dtype == "float32":
        return dict(weights)
    half = {k: v.to(torch.float16) if v.ndim > 1 and v.is_floating_point() else v for k, v in weights.items()}
    if broken := [k for k, v in half.items() if not bool(torch.isfinite(v).all())]:
        raise InputError(
            "weights too large for float16", where=where, got=", ".join(broken[:6]), mend="--dtype float32"
        )
    return half


def _test_orientation(
    denoiser: Denoiser, volume: Tensor, declaration: Declaration, multiple: int, count: int
) -> OrientationReport:
    slices = choose_slices(volume, declaration.plane, count, multiple, declaration.window)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return check_orientation(denoiser, slices, declaration.plane, device=device)


def _distribution(name: str) -> tuple[str, str]:
    """Return the distribution that provides an importer, and its version."""
    plain = name.rpartition(":")[2]
    found = [i for i in registry.available("importers") if name in (i.name, f"{i.distribution}:{i.name}")]
    found = found or [i for i in registry.available("importers") if i.name == plain]
    return found[0].distribution, found[0].version
