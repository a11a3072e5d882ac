# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the bundles do badly, for their model cards: ``bundles/NAME/docs/failure.png``.

    python scripts/draw_failures.py DATA [--bundles NAME ...]

DATA holds ``mr/`` and ``ct/``. Each case goes further than the bundle was made for: another contrast, thicker slices,
fewer views, a smaller arc. Columns: the classical start, the default, the truth.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from PIL import Image
from validate_bundles import BODY, CHEST, HEAD, ROOT, T1, WINDOW, Task, write_part

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


TV = ("3D ADMM-TV", "admm_tv")
#: A region of a material and a subject that the networks were not trained on.
WEAVE = Task(
    "", "sparse_view_ct", "materials_ct", ("microct/puma_weave",), (96, 96, 32), ("", 0.0), first=(27, 27, 111)
)
LIMB = Task("", "accelerated_mri", "body_mr", ("mr_other/sts_044_T1",), (144, 160, 16), ("", 0.0), first=(18, 16, 18))
FAILURES = {
    "brain_mr": Failure(
        "slices of 10 mm instead of 5",
        Task("", "z_super_resolution", "brain_mr", T1[:1], HEAD, ("", 0.0)),
        ("Cubic", "cubic"),
        {"operator": {"name": "slice_thickness", "thickness": 10.0}},
    ),
    "body_ct": Failure(
        "4 views",
        Task("", "sparse_view_ct", "body_ct", BODY[:1], CHEST, ("", 0.0), window=WINDOW),
        TV,
        {"operator#views": 4},
    ),
    "materials_ct": Failure("a composite from 8 views", WEAVE, TV, {"operator#views": 8}),
    "body_mr": Failure(
        "a limb, 12 times faster, axial slices alone",
        LIMB,
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
        root = ROOT / "bundles" / task.bundle
        part = ROOT / "outputs" / "failures" / f"{name}.nii.gz"
        part.parent.mkdir(parents=True, exist_ok=True)
        write_part(task, task.volumes[0], args.data, part)
        volumes, metrics = {}, {}
        data: dict[str, Any] = {}
        classical = overlay_path(METHOD, preset, root, where=name)
        for title, files in ((label, [classical]), ("Three planes (default)", [])):
            config = ConfigParser()
            files = [root / "configs/inference.json", root / f"configs/tasks/{task.overlay}.json", *files]
            config.read_config([str(file) for file in files])
            config.update({"bundle_root": str(root), "image": str(part), "case_name": "part", "simulate": True})
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
