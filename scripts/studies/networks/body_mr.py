# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""MR of prostate, breast and limb by ``body_mr`` and by ``brain_mr``, which never saw a body.

    python scripts/studies/networks/body_mr.py BODY_MR --work FOLDER [--output FILE.md]

BODY_MR is a folder of ``scripts/prepare_training_data.py``. What was computed is not computed again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from materials import Spec, kept, reconstruct, scores, truth_of, tv

from monai_diffrecon.io.atomic import atomic_write

HEAD = """# MR of the body (experimental)

`scripts/studies/networks/body_mr.py`:
the middle of a subject (limb) and of regions (prostate, breast) that `body_mr` was not
trained on; other regions of the same prostate and breast are in its training data. The settings of the tasks, no noise.
The classical rival is cubic interpolation of thick slices, and otherwise 3D ADMM-TV with the settings that
`docs/results/validation.md` found for the brain. PSNR (dB) is for a data range of 1, the 99.5th percentile; SSIM is
the mean of the planes (of axial slices where there are 8). Gains are over the rival.

| task | voxels | rival (dB) | SSIM | brain_mr (dB) | SSIM | body_mr (dB) | SSIM |
|---|---|---|---|---|---|---|---|
"""
FINDINGS = """
`brain_mr`, which never saw a body, is nearly as good. The training of `body_mr` alone fits its three subjects: right
after it, it was 0.1 to 0.7 dB worse than `brain_mr` in every row. The bundle has 0.3 of it and 0.7 of `brain_mr`, a
share that was chosen on training volumes.
"""
TV = tv(0.0018, 400, True, rho=0.3)
CUBIC: Spec = {"sampler": {"name": "cubic"}, "consistency": {"name": "none"}}
ALONE = {"prior": {"name": "slices"}}


@dataclass(frozen=True)
class Row:
    """A task: for readers, its overlay, volume of the section ``validation``, size, rival and overrides."""

    title: str
    overlay: str
    volume: str
    size: tuple[int, int, int]
    rival: Spec = field(default_factory=lambda: TV)
    overrides: Spec = field(default_factory=dict)


PROSTATE, BREAST = "prostateusbx_0001_T2_validation", "ucsfbr_06_DCE2_validation"
ROWS = {
    "prostate_sr": Row("Prostate, 4.5 mm to 1.5 mm", "z_super_resolution", PROSTATE, (112, 112, 18), CUBIC),
    "prostate_8x": Row("Prostate, 8 times faster", "accelerated_mri", PROSTATE, (144, 144, 8)),
    "limb_8x": Row(
        "Limb, 8 times faster, axial slices alone", "accelerated_mri", "sts_044_T1", (144, 160, 8), overrides=ALONE
    ),
    "breast_8x": Row(
        "Breast, 8 times faster, slices as measured alone", "accelerated_mri", BREAST, (144, 160, 8), overrides=ALONE
    ),
}


def cells(key: str, folder: Path, work: Path) -> str:
    """Return a task as a row of Markdown."""
    row = ROWS[key]
    truth, spacing = truth_of(folder, "validation", row.volume, row.size, thick_last=True)
    own: dict[str, tuple[str, Spec]] = {"rival": ("body_mr", row.rival), "brain_mr": ("brain_mr", row.overrides)}
    own["body_mr"] = ("body_mr", row.overrides)
    # The task of body_mr asks for thick slices of another thickness than that of brain_mr.
    thick = {"operator#thickness": 4.5, "operator#target_spacing": None} if row.rival is CUBIC else {}
    found: dict[str, dict[str, Any]] = {}
    for label, (bundle, how) in own.items():

        def compute(bundle: str = bundle, how: Spec = how) -> dict[str, float]:
            done = reconstruct(bundle, row.overlay, truth, spacing, {**thick, **how})
            return scores(done.volume, truth[..., : done.volume.shape[-1]])

        found[label] = kept(work / f"{key}_{label}.json", compute)
        print(key, label, found[label], flush=True)
    first = found["rival"]
    text = [f"{first['psnr']:.2f} | {first['ssim']:.4f}"]
    text += [f"{found[m]['psnr'] - first['psnr']:+.2f} | {found[m]['ssim']:.4f}" for m in ("brain_mr", "body_mr")]
    return f"| {row.title} | {' x '.join(map(str, row.size))} | {' | '.join(text)} |"


def main() -> None:
    """Reconstruct, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("body_mr", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    text = HEAD + "\n".join(cells(key, args.body_mr, args.work) for key in ROWS) + "\n" + FINDINGS
    print(text)
    if args.output is not None:
        atomic_write(args.output, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
