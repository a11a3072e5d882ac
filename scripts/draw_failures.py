# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the bundles do badly, for their model cards: ``bundles/NAME/docs/failure.png``.

    python scripts/draw_failures.py DATA [--bundles NAME ...]

DATA holds ``mr/``, ``mr_other/``, ``ct/`` and ``microct/``. Each case goes further than the bundle was
made for: another contrast, thicker slices, fewer views, a smaller arc. Columns: the classical start, the default, the
truth.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from PIL import Image
from validate_bundles import CHEST, HEAD, ROOT, WINDOW, Task, part_of

from monai_diffrecon.comparison.montage import montage
from monai_diffrecon.comparison.volume_metrics import volume_metrics
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.presets.overlays import METHOD, overlay_path


@dataclass(frozen=True)
class Failure:
    """A task that is too hard: what is measured, the classical method beside it, and the title of the picture."""

    title: str
    task: Task
    classical: tuple[str, str]
    overrides: dict[str, Any] = field(default_factory=dict)


def _task(overlay: str, part: tuple[Any, ...], volume: str | None = None) -> Task:
    window = WINDOW if part is CHEST else None
    return Task("", overlay, volume or part[0], part[1], part[2], ("", 0.0), {}, 0.1, window)


TV = ("3D ADMM-TV", "admm_tv")
#: What one network denoises in all planes: regions and a subject that it was not trained on.
WEAVE = ("microct/puma_weave.nii.gz", (27, 123, 27, 123, 111, 143), ("materials_ct",))
LIMB = ("mr_other/sts_044_T1.nii.gz", (18, 162, 16, 176, 18, 34), ("body_mr",))
FAILURES = {
    "brain_mr_t1_axial": Failure(
        "FLAIR instead of T1, 8 times faster",
        _task("accelerated_mri", HEAD, "mr/ljubx19_FLAIR.nii.gz"),
        TV,
    ),
    "brain_mr_t1_coronal": Failure(
        "slices of 10 mm instead of 5",
        _task("z_super_resolution", HEAD),
        ("Cubic", "cubic"),
        {"operator": {"name": "slice_thickness", "thickness": 10.0}},
    ),
    "body_ct_axial": Failure("4 views", _task("sparse_view_ct", CHEST), TV, {"operator#views": 4}),
    "body_ct_coronal": Failure(
        "60 degrees of limited angle",
        _task("limited_angle_ct", CHEST),
        TV,
        {"operator#arc": 60, "operator#views": 40},
    ),
    "materials_ct": Failure("a composite from 8 views", _task("sparse_view_ct", WEAVE), TV, {"operator#views": 8}),
    "body_mr": Failure(
        "a limb, 12 times faster, axial slices alone",
        _task("accelerated_mri", LIMB),
        TV,
        {"operator#acceleration": 12, "prior": {"name": "slices"}},
    ),
}


def main() -> None:
    """Measure, reconstruct and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bundles", nargs="+", choices=list(FAILURES), default=list(FAILURES))
    args = parser.parse_args()
    for name in args.bundles:
        failure = FAILURES[name]
        task, (label, preset) = failure.task, failure.classical
        root = ROOT / "bundles" / task.bundles[0]
        part = ROOT / "outputs" / "failures" / f"{name}.nii.gz"
        part.parent.mkdir(parents=True, exist_ok=True)
        part_of(task, args.data, part)
        volumes, metrics = {}, {}
        data: dict[str, Any] = {}
        classical = overlay_path(METHOD, preset, root, where=name)
        others = {} if len(task.bundles) == 1 else {"auxiliary_bundle": f"../{task.bundles[1]}"}
        for title, files in ((label, [classical]), ("Both planes (default)" if others else "Network", [])):
            config = ConfigParser()
            files = [root / "configs/inference.json", root / f"configs/tasks/{task.overlay}.json", *files]
            config.read_config([str(file) for file in files])
            config.update({"bundle_root": str(root), "image": str(part), "case_name": "part", **others})
            config.update(failure.overrides)
            data = data or config.get_parsed_content("dataset")[0]
            done = config.get_parsed_content("inferer").reconstruct(data["image"], case="part")
            volumes[title] = done.volume
            truth = torch.as_tensor(data["reference"])[..., : done.volume.shape[-1]]
            metrics[title] = volume_metrics(done.volume, truth)
            print(f"{failure.title}: {title} {metrics[title]['psnr']:.2f} dB", flush=True)
        path = ROOT / "bundles" / name / "docs" / "failure.png"
        spacing = read_volume(part)[1].spacing
        montage(volumes, truth, path, title=failure.title, spacing=spacing, window=task.window, metrics=metrics)
        with Image.open(path) as picture:  # grey and one colour map: a palette keeps what there is to see
            picture.convert("RGB").quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main()
