# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Put trained weights into a bundle: float16 weights, their hash and the training record in the metadata, pictures.

    python scripts/export_bundle.py bundles/brain_mr TRAINING_FOLDER
    python scripts/export_bundle.py bundles/brain_mr --to EXPORTED_FOLDER

TRAINING_FOLDER is the ``output_dir`` of ``configs/train.json``: ``model.pt``, ``history.jsonl``, ``samples.png``.
EXPORTED_FOLDER is a new folder for a copy that leaves the repository; the presets of methods are copied into it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from matplotlib.figure import Figure

from monai_diffrecon.io.atomic import atomic_write, write_json
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.numerics.pixel_range import MOST_OBLONG
from monai_diffrecon.presets.overlays import copy_methods


def draw_curves(history: list[dict[str, float]], path: Path) -> None:
    """Draw the validation PSNR of each noise level over the training."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    crops = [row["crops"] / 1e3 for row in history]
    for key in [k for k in history[0] if k.startswith("val_psnr_sigma_")]:
        ax.plot(crops, [row[key] for row in history], label=f"sigma {key.removeprefix('val_psnr_sigma_')}")
    ax.set_xlabel("training patches (thousands)")
    ax.set_ylabel("PSNR of denoised validation patches (dB)")
    ax.grid(alpha=0.3)
    ax.legend(ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Put weights into one bundle, copy it out of the repository, or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="root of the bundle")
    parser.add_argument("training", type=Path, nargs="?", help="folder with model.pt, history.jsonl and samples.png")
    parser.add_argument("--before", type=int, default=0, help="iterations of the trainings that this one started from")
    parser.add_argument("--to", type=Path, help="new folder for a copy that leaves the repository, with the presets")
    args = parser.parse_args()
    if args.training is None and args.to is None:
        parser.error("nothing to do: name a training, --to, or both")
    if args.training is not None:
        put_weights(args.bundle, args.training, args.before)
    if args.to is not None:
        shutil.copytree(args.bundle, args.to)
        copy_methods(args.to)


def put_weights(bundle: Path, training: Path, before: int) -> None:
    """Put the weights of a training into a bundle, and what is known of them into its metadata and pictures."""
    weights = torch.load(training / "model.pt", map_location="cpu", weights_only=True)
    half = {k: v.to(torch.float16) for k, v in weights.items()}
    target = bundle / "models" / "model.pt"
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, lambda path: torch.save(half, path))
    rows = [json.loads(line) for line in (training / "history.jsonl").read_text().splitlines()]
    config = json.loads((bundle / "configs" / "train.json").read_text())
    batch, spacing_range = config["batch_size"], config["train"]["dataset"].get("spacing_range")
    history = [row | {"crops": (row["iteration"] + before) * batch} for row in rows]
    docs = bundle / "docs"
    docs.mkdir(exist_ok=True)
    atomic_write(docs / "curves.png", lambda path: draw_curves(history, path))
    shutil.copyfile(training / "samples.png", docs / "samples.png")
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["diffrecon"]["weights"] = {"file": "models/model.pt", "sha256": sha256_file(target), "dtype": "float16"}
    if spacing_range is not None:
        metadata["diffrecon"].pop("spacing", None)
        metadata["diffrecon"] |= {"spacing_range": spacing_range, "spacing_ratio": MOST_OBLONG}
    last = history[-1]
    metadata["diffrecon"]["training"] |= {"iterations": last["iteration"] + before, "patches": last["crops"]}
    metadata["eval_metrics"] = {k: round(v, 2) for k, v in last.items() if k.startswith("val_psnr")}
    write_json(path, metadata)


if __name__ == "__main__":
    main()
