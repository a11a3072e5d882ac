# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Text as MLflow takes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

MAX_KEY = 250


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters as text by dotted name; a list stays one value unless it holds mappings."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
            flat |= flatten({str(k): v for k, v in enumerate(value)}, f"{key}.")
        else:
            flat[key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def key_text(name: str) -> str:
    """Return a name of MLflow's alphabet."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)[:MAX_KEY]


def cut(value: Any, limit: int) -> str:
    """Return a value as text of at most ``limit`` characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
