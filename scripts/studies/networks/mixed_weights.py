# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
r"""Weights between those a training in the loop started from and those it came to, judged by whole reconstructions.

    python scripts/studies/networks/mixed_weights.py --kind ct --datalist OUT/datalist.json --trained RUN/model.pt \
        [--fractions 0 0.25 0.5 1 1.5] [--output FILE.jsonl]

A fraction of 0 is the start (``scripts/training/body_ct.pt`` or ``brain_mr.pt``), 1 the trained weights, and more than
1 goes on in the same direction. PSNR (dB) of the validation of the training itself: the middle of every validation
volume by every task (``loop#report`` of the configuration). Fractions that the output has are not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[3]
#: Kind -> configurations of the training, bundle whose tasks are reconstructed, weights of the start.
KINDS = {
    "ct": (
        [
            "bundles/body_ct_axial/configs/train.json",
            "scripts/training/body_ct.json",
            "scripts/training/body_ct_loop.json",
        ],
        "bundles/body_ct_axial",
        "scripts/training/body_ct.pt",
    ),
    "mr": (
        [
            "bundles/brain_mr_t1_coronal/configs/train.json",
            "scripts/training/brain_mr.json",
            "scripts/training/brain_mr_loop.json",
        ],
        "bundles/brain_mr_t1_axial",
        "scripts/training/brain_mr.pt",
    ),
}


def main() -> None:
    """Measure every fraction, and print and write a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--datalist", type=Path, required=True)
    parser.add_argument("--trained", type=Path, required=True)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.0, 0.25, 0.5, 1.0, 1.5])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    files, bundle, start = KINDS[args.kind]
    config = ConfigParser()
    config.read_config([str(ROOT / file) for file in files])
    known = []
    if args.output is not None and args.output.is_file():
        known = [json.loads(line) for line in args.output.read_text().splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        given = {"bundle_root": str(ROOT / bundle), "datalist": str(args.datalist), "output_dir": folder}
        config.update({**given, "pretrained": str(ROOT / start)})
        report = config.get_parsed_content("loop#report")
        first, last = (
            {k: v.float() for k, v in torch.load(path, map_location="cpu", weights_only=True).items()}
            for path in (ROOT / start, args.trained)
        )
        for fraction in args.fractions:
            if any(row["fraction"] == fraction for row in known):
                continue
            report.tasks.network.load_state_dict({k: torch.lerp(v, last[k], fraction) for k, v in first.items()})
            row = {"fraction": fraction, **report.evaluate()}
            print(json.dumps(row), flush=True)
            if args.output is not None:
                with args.output.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
