# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Titles for pages that scripts write without one."""

from __future__ import annotations

from typing import Any

TITLES = {
    "results/complex_volumes": "Complex volumes",
    "results/demo": "The demo: thick slices of a whole head",
    "results/methods": "Published methods on a part of a brain",
    "results/planes": "Planes and their order",
    "results/raw_mri": "Raw multi-coil MRI",
    "results/unconditional": "Volumes without a measurement",
}


def titled(page: str, text: str) -> str:
    """Return the text of a page, with a title if it has none."""
    return text if text.startswith(("# ", "---")) or page not in TITLES else f"# {TITLES[page]}\n\n{text}"


def setup(app: Any) -> dict[str, Any]:
    """Connect to Sphinx."""

    def read(app: Any, page: str, source: list[str]) -> None:
        source[0] = titled(page, source[0])

    app.connect("source-read", read)
    return {"parallel_read_safe": True}
