# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Finding a bundle by its name, or by its family's: ``knee`` for ``knee_axial`` and its siblings."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import path_option

#: Environment variable with folders of bundles, separated like those of PATH.
VARIABLE = "DIFFRECON_BUNDLES"
#: A family is entered by the first of these planes that it has.
_PLANES = ("axial", "coronal", "sagittal")


def find_bundle(bundle: str | Path) -> Path:
    """Return the root of a bundle.

    Names are looked for in ``bundles`` of the working directory, then in the folders of ``DIFFRECON_BUNDLES``, then in
    those that installed packages ship. The first place that has the name wins.

    Args:
        bundle: path of a bundle, its name, or the name of its family.

    Raises:
        InputError: not a path.
        ConfigError: no such bundle, or several installed packages ship it.
    """
    path = path_option(bundle, "bundle")
    if _is_bundle(path) or isinstance(bundle, Path) or len(path.parts) != 1 or path.is_absolute():
        return path
    own = [Path("bundles"), *(Path(p) for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p)]
    shipped = registry.folders("bundles")
    for place in own:
        if found := _choose(path.name, _bundles_in(place)):
            return found
    roots = {dist: root for dist, place in shipped if (root := _choose(path.name, _bundles_in(place)))}
    if len(roots) == 1:
        return next(iter(roots.values()))
    if roots:
        raise ConfigError(
            f"{path.name!r} is shipped by {' and by '.join(roots)}",
            where="bundle",
            mend=f"give its path, {' or '.join(map(str, roots.values()))}",
        )
    names = sorted({n for place in (*own, *(p for _, p in shipped)) for n in _bundles_in(place)})
    families = {n.rpartition("_")[0] for n in names if n.rpartition("_")[2] in _PLANES}
    close = get_close_matches(path.name, sorted(families) + names, n=1)
    places = ["bundles", f"${VARIABLE}{'' if os.environ.get(VARIABLE) else ' (not set)'}", *(d for d, _ in shipped)]
    raise ConfigError(
        "no such bundle",
        where="bundle",
        expected=f"a path, or one of {', '.join(names) or 'none'} (looked in {', '.join(places)})",
        got=repr(path.name),
        mend=f"did you mean {close[0]!r}?" if close else f"give its path, or set {VARIABLE} to the bundle folder",
    )


def _choose(name: str, there: dict[str, Path]) -> Path | None:
    """Return the bundle of this name, or the one by which a family of this name is entered."""
    return next((there[n] for n in (name, *(f"{name}_{plane}" for plane in _PLANES)) if n in there), None)


def _bundles_in(place: Path) -> dict[str, Path]:
    """Return the bundles in a folder, or the one that the folder is, by name."""
    if _is_bundle(place):
        return {place.resolve().name: place}
    return {path.name: path for path in sorted(place.glob("*")) if _is_bundle(path)} if place.is_dir() else {}


def _is_bundle(path: Path) -> bool:
    return (path / "configs" / "metadata.json").is_file()
