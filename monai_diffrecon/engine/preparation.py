# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What was done to a scan before it was reconstructed, for its record."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

from monai_diffrecon.tracking.redaction import redact


def note_preparation(data: dict[Any, Any], key: Hashable, step: dict[str, Any]) -> None:
    """Append a step to ``<key>_preparation``, a JSON list: MONAI's collation keeps texts as they are.

    Args:
        data: the case's dict, which is changed.
        key: key of the scan.
        step: name of what was done -> its options.
    """
    name = f"{key}_preparation"
    data[name] = json.dumps([*json.loads(data.get(name, "[]")), redact(step)])
