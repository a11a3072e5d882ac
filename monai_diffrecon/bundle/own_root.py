# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The root folder of the bundle whose configuration is being read."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def own_root(name: str) -> str:
    """Return the root folder of a bundle, for its own configuration, which cannot know the file it was read from.

    It is the first folder of Python's module path that is this bundle, and the working directory last:
    ``monai.bundle run`` and MONAI Deploy put a bundle on that path before they build anything of it, and the working
    directory may be another copy. MONAI Label, :func:`monai_diffrecon.load` and ``--bundle_root`` set the folder
    instead of asking.

    Args:
        name: ``name`` of the bundle's ``metadata.json``.

    Returns:
        The folder; ``.`` where none is found, so that what is missing is reported by whoever reads the bundle.
    """
    found = (folder for folder in sys.path if _name_of(Path(folder)) == name)
    return next((folder for folder in found if not Path(folder).samefile(".")), ".")


def _name_of(root: Path) -> str | None:
    try:
        said = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # not a folder with a bundle
        return None
    return said.get("name") if isinstance(said, dict) else None
