# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Renders the templates of reports."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2

from monai_diffrecon._version import __version__
from monai_diffrecon.io.atomic import atomic_write

_SHARED = Path(__file__).parent / "template"


def write_page(path: str | Path, template: Path, **context: Any) -> None:
    """Write a page, atomically. Templates include ``style.css.j2``, and know ``number``, the time and the version.

    Args:
        path: file to write.
        template: file of the template.
        context: what it shows.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shared = {
        "package_version": __version__,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "number": number,
    }
    page = environment.get_template(template.name).render(shared | context)
    atomic_write(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def number(value: float | None, digits: int) -> str:
    """Return a number for readers; one that would round to nothing keeps its first digits."""
    if value is None or not math.isfinite(value):
        return "\u2013"
    if value and abs(value) < 10.0**-digits:
        return f"{value:.2g}".replace("-", "\u2212")
    return f"{value:.{digits}f}".replace("-", "\u2212")
