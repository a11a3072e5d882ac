# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The server of MONAI Label, for ``monailabel start_server --uvicorn_app diffrecon_label.server:app``.

It starts beside pydicom 3, see :mod:`diffrecon_label.pydicom_2`, and ends in one line if there are no bundles.
"""

from __future__ import annotations

from monailabel.config import settings

from diffrecon_label import pydicom_2  # noqa: F401
from diffrecon_label.bundles import offered_bundles
from monai_diffrecon.errors import DiffReconError

try:
    offered_bundles(settings.MONAI_LABEL_APP_CONF)
except DiffReconError as error:
    raise SystemExit(f"error: {error}") from None

from monailabel.app import app

__all__ = ["app"]
