# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Imported before MONAI Label, makes it start beside pydicom 3.

MONAI Label 0.8.5 imports ``pydicom_seg`` 0.4.1, the last one, which asks pydicom for a private module that pydicom 3
no longer has; monai_diffrecon needs pydicom 3. What it looks for has another place now, and is put where it was.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType

from pydicom.uid import SegmentationStorage

_GONE = "pydicom._storage_sopclass_uids"

if _GONE not in sys.modules and find_spec(_GONE) is None:
    _stand_in = ModuleType(_GONE)
    _stand_in.SegmentationStorage = SegmentationStorage  # type: ignore[attr-defined]
    sys.modules[_GONE] = _stand_in
