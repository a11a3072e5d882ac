# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``python -m diffrecon_label [FOLDER]`` prints the folder of the app, for ``monailabel start_server --app``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

APP = Path(__file__).resolve().parent / "app"


def copy_app(folder: str | Path) -> Path:
    """Copy the app and return its folder.

    Args:
        folder: where to. MONAI Label keeps its log there, and an installation may not be written to.
    """
    app = Path(folder).resolve()
    app.mkdir(parents=True, exist_ok=True)
    shutil.copy(APP / "main.py", app)
    return app


if __name__ == "__main__":
    sys.stdout.write(f"{copy_app(sys.argv[1]) if len(sys.argv) > 1 else APP}\n")
