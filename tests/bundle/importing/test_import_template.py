# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The template of imported bundles is the config of the committed ones."""

from __future__ import annotations

import json
from pathlib import Path

from monai_diffrecon.bundle.importing.write_bundle import TEMPLATE

BUNDLE = Path(__file__).parents[3] / "bundles" / "brain_mr_t1_axial"
REFRESH = "the template is out of date: run `python scripts/refresh_import_template.py`"


def contents(root: Path) -> dict[str, object]:
    """Return name -> content of the configs that are not those of one network."""
    found: dict[str, object] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.name not in ("metadata.json", "train.json")):
        text = path.read_text(encoding="utf-8")
        found[str(path.relative_to(root))] = json.loads(text) if path.suffix == ".json" else text
    return found


def test_the_template_is_up_to_date() -> None:
    committed, template = contents(BUNDLE / "configs"), contents(Path(str(TEMPLATE)) / "configs")
    inference = committed["inference.json"]
    assert isinstance(inference, dict)
    inference["network_def"] = inference["bundle_root"]["name"] = None
    assert sorted(committed) == sorted(template), REFRESH
    for name, content in committed.items():
        assert template[name] == content, f"{name}: {REFRESH}"
