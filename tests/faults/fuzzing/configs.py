# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Configurations of a bundle with something wrong in them, and what ``monai.bundle run`` builds of them."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_diffrecon.presets.overlays import overlays

from .mutations import any_value, mutate_tree

#: What of a configuration is for our classes to check; the rest is MONAI's own.
OURS = (
    "operator", "operator", "prior", "consistency", "consistency", "sampler", "sampler", "noise", "perpendicular",
    "inferer", "inferer", "simulate", "simulate_noise", "simulate_photons", "simulate_electronic_std",
    "simulate_unit", "resample", "seed", "precision", "complex", "num_samples", "keep_samples",
    "auxiliary_bundle", "case_name", "output_format", "image", "reference", "reader", "dataset_dir", "evaluator",
    "datalist",
)  # fmt: skip
#: Not ours: references, classes, and what the test itself needs.
_KEPT = {
    "_target_",
    "score",
    "auxiliaries",
    "val_data_loader",
    "network",
    "device",
    "inferer",
    "val_handlers",
    "dataset",
    "output_dir",
}
#: Folders that a user may type by mistake; within the one that may be written.
_FOLDERS = (
    "a\0b", "x" * 300, "x/" * 40, "", " ", 7, None, [], {}, True, "scan.nii", "out/../other", "two\nlines", "\ud800",
    "~no-such-user/x",
)  # fmt: skip
#: Larger numbers than this are work that was asked for, not a fault.
_MUCH = 50


def make_config(rng: random.Random, configs: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the files of a run, one of them with something wrong, and options of its command line."""
    files = [json.loads((configs / "inference.json").read_text())]
    for kind in ("tasks", "methods"):
        if rng.random() < 0.6:
            files.append(json.loads(rng.choice([*overlays(kind, configs.parent).values()]).read_text()))
    options: dict[str, Any] = {}
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.1:
            options["output_dir"] = rng.choice(_FOLDERS)
        elif rng.random() < 0.15 and len(files) > 1:
            files[-1] = mutate_tree(rng, files[-1])
        else:
            _spoil(rng, files)
    return files, options


def _spoil(rng: random.Random, files: list[dict[str, Any]]) -> None:
    key = rng.choice(OURS)
    holders = [f for f in files if key in f]
    if not holders:
        return
    holder = rng.choice(holders)
    if not isinstance(holder[key], dict) or (rng.random() < 0.2 and key not in ("inferer", "evaluator", "datalist")):
        holder[key] = any_value(rng)
    else:
        for _ in range(20):
            changed = mutate_tree(rng, holder[key])
            if all(changed.get(k) == v for k, v in holder[key].items() if k in _KEPT):
                holder[key] = changed
                return


def write_config(folder: Path, files: list[dict[str, Any]]) -> list[str]:
    """Write files beside each other and return their names, as ``--config_file`` has them."""
    names = []
    for number, content in enumerate(files):
        path = folder / f"config{number}.json"
        path.write_text(json.dumps(content))
        names.append(str(path))
    return names


def build(names: list[str], options: dict[str, Any]) -> Any:
    """Build what a run builds before its first case; return the evaluator."""
    parser = ConfigParser()
    parser.read_config(names)
    parser.update(options)
    for name in ("inferer", "datalist", "dataset"):
        parser.get_parsed_content(name)
    return parser.get_parsed_content("evaluator")


def is_quick(files: list[dict[str, Any]]) -> bool:
    """Say whether a configuration asks for little work: no large number anywhere."""

    def numbers(tree: Any) -> list[float]:
        if isinstance(tree, dict):
            return [n for v in tree.values() for n in numbers(v)]
        if isinstance(tree, list):
            return [n for v in tree for n in numbers(v)]
        return [float(abs(tree))] if isinstance(tree, int | float) and abs(tree) < 1e300 else []

    quick = copy.deepcopy(files)
    for content in quick:
        for name in ("network_def", "dataloader"):
            content.pop(name, None)
    return all(n <= _MUCH for n in numbers([{k: v for k, v in c.items() if k in OURS or k == "calls"} for c in quick]))
