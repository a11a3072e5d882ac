# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Installed versions of packages that affect the voxels."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

from monai_diffrecon._version import __version__

#: Distributions whose version can affect the voxels, besides this one and the plugins'.
_ALWAYS = ("torch", "monai")


def versions_of(distributions: Iterable[str]) -> dict[str, str | None]:
    """Return distribution -> installed version, this package, torch and MONAI among them; None when not installed."""
    versions: dict[str, str | None] = {}
    for name in (*_ALWAYS, *sorted(distributions)):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions | {"monai_diffrecon": __version__}
