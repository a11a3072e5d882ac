# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Copy the configs of a committed bundle to the template of ``diffrecon import-checkpoint``, without its network.

python scripts/refresh_import_template.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "bundles" / "brain_mr_t1_axial" / "configs"
TEMPLATE = ROOT / "monai_diffrecon" / "bundle" / "importing" / "template" / "configs"
#: What belongs to one network.
OWN = ("metadata.json", "train.json", "methods")


def main() -> None:
    """Replace the template."""
    shutil.rmtree(TEMPLATE, ignore_errors=True)
    shutil.copytree(BUNDLE, TEMPLATE, ignore=shutil.ignore_patterns(*OWN))
    path = TEMPLATE / "inference.json"
    inference = json.loads(path.read_text(encoding="utf-8"))
    inference["network_def"] = inference["bundle_root"]["name"] = None
    path.write_text(json.dumps(inference, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
