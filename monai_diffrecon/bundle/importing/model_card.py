# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``docs/README.md`` and ``LICENSE`` of an imported bundle."""

from __future__ import annotations

from monai_diffrecon.bundle.importing.imported_bundle import NO_SAMPLE, UNKNOWN, ImportedBundle, harmless
from monai_diffrecon.numerics.pixel_range import describe_pixels

_CARD = """# {name}

A 2D diffusion network for **{plane}** slices, imported from a checkpoint by `diffrecon import-checkpoint`. It is no
reconstruction by itself: `monai_diffrecon` composes it with a forward operator, a consistency step and a sampler.

**Intended use.** Research on image reconstruction. Not a medical device; a learned prior can show structure that was
not measured, and remove structure that was.

## What is known

| | | from |
|---|---|---|
| checkpoint | {files} | the file |
| network | `{target}`, {parameters:,} weights, stored in {dtype} | importer `{importer}` |
| noise levels | sigma {low:g} to {high:g} in network units, denoiser `{denoiser}` | importer `{importer}` |
| size of a slice | multiples of {multiple} | tried |
| plane | {plane} | declared at import |
| voxel size | {spacing} within the slice, RAS+ order | declared at import |
| intensity | {intensity} | declared at import |
| licence of the weights | {licence} | {licence_from} |

{notes}

## What is not known

Training data, patients and scanners; how the training went; how good the network is.{unknown}
Until you have measured it on data like yours, expect nothing. Fill this in, and the same fields of
`configs/metadata.json`, if you know more.

## Orientation

{orientation}

## Use

See the README of the repository. `configs/inference.json` reconstructs thin slices from a thick-slice NIfTI;
`configs/tasks` has overlays for other measurements, `diffrecon methods` lists presets of published methods. Their
settings are those of the bundles of the repository and were not tuned for this network.
"""

_LICENCE = """Weights (models/model.pt)

    {licence}

They were converted from a checkpoint ({files}).
`diffrecon import-checkpoint` grants no rights in them: the licence is that of their authors. If it is not known, ask
them before you use or pass on the weights.

Configuration files (configs/)

    Licensed under the Apache License, Version 2.0; https://www.apache.org/licenses/LICENSE-2.0
"""


def model_card(bundle: ImportedBundle) -> str:
    """Return the model card: what is known, its source, and what is unknown."""
    said, (low, high) = bundle.declaration, bundle.sigma_range
    unknown = "" if said.license_note else "\nThe licence: ask the authors before you use or pass on the weights."
    return _CARD.format(
        name=bundle.name,
        plane=said.plane,
        files="; ".join(f"`{harmless(k)}`, sha256 `{v}`" for k, v in bundle.source.items()),
        target=bundle.network_def["_target_"],
        parameters=bundle.parameters,
        dtype=bundle.dtype,
        importer=bundle.importer,
        low=low,
        high=high,
        denoiser=bundle.denoiser["name"],
        multiple=bundle.multiple,
        spacing=describe_pixels(said.spacing),
        intensity=", ".join(f"{k} {v}" for k, v in said.intensity.items()),
        licence=bundle.licence if said.license_note else "not known",
        licence_from="declared at import" if said.license_note else "no one",
        notes="\n".join(f"- {harmless(note)}" for note in bundle.notes),
        unknown=unknown,
        orientation=_orientation(bundle),
    )


def licence_file(bundle: ImportedBundle) -> str:
    """Return the file LICENSE: that of the weights as far as it is known, and ours."""
    licence = bundle.licence if bundle.declaration.license_note else UNKNOWN
    return _LICENCE.format(licence=licence, files=", ".join(map(harmless, bundle.source)))


def _orientation(bundle: ImportedBundle) -> str:
    report = bundle.orientation
    if report is None:
        return f"{NO_SAMPLE[0].upper()}{NO_SAMPLE[1:]}.\nImport it again with `--sample VOLUME.nii.gz`."
    words = [f"**Warning:** {text}." for text in report.warnings] or [
        f"Tested on {report.slices} {report.plane} slices of a sample volume: no flip and no transpose fits the "
        "network\nclearly better than RAS+ order."
    ]
    return "\n\n".join(
        [
            *words,
            "Loss E||D(x0 + sigma n, sigma) - x0||^2 / (D sigma^2); 1 for what leaves the noise:",
            "\n".join(f"    {line}" for line in report.table()),
        ]
    )
