# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Finding a bundle by its name, or by its family's: ``knee`` for ``knee_axial`` and its siblings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from platformdirs import user_cache_path

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import path_option

#: Environment variable with folders of bundles, separated like those of PATH.
VARIABLE = "DIFFRECON_BUNDLES"
#: A family is entered by the first of these planes that it has.
_PLANES = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class Place:
    """Where bundles are looked for.

    Attributes:
        name: for a reader.
        bundles: name -> root of each bundle there.
    """

    name: str
    bundles: dict[str, Path]


def places() -> list[Place]:
    """Return where bundles are looked for, in this order: see :func:`find_bundle`."""
    own = [Path(p) for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p]
    return [
        Place("bundles", _bundles_in(Path("bundles"))),
        *(Place(distribution, _bundles_in(folder)) for distribution, folder in registry.folders("bundles")),
        *(Place(f"${VARIABLE}", _bundles_in(folder)) for folder in own),
        Place("downloads", _bundles_in(cache_folder())),
    ]


def cache_folder() -> Path:
    """Return the folder of downloaded bundles."""
    return user_cache_path("monai_diffrecon") / "bundles"


def find_bundle(bundle: str | Path) -> Path:
    """Return the root of a bundle.

    Names are looked for in ``bundles`` of the working directory, then in what installed packages ship, then in the
    folders of ``DIFFRECON_BUNDLES``, then among the downloaded ones. The first place that has the name wins.

    Args:
        bundle: path of a bundle, its name, or the name of its family.

    Raises:
        InputError: not a path.
        ConfigError: no such bundle, or several installed packages ship it.
    """
    path = path_option(bundle, "bundle")
    if _is_bundle(path) or isinstance(bundle, Path) or len(path.parts) != 1 or path.is_absolute():
        return path
    known = places()
    found = [(place.name, root) for place in known if (root := _choose(path.name, place.bundles))]
    shipped = {distribution for distribution, _ in registry.folders("bundles")}
    if found and found[0][0] in shipped and (also := [f for f in found if f[0] in shipped and f[0] != found[0][0]]):
        both = [found[0], *also]
        raise ConfigError(
            f"{path.name!r} is shipped by {' and by '.join(name for name, _ in both)}",
            where="bundle",
            mend=f"give its path, {' or '.join(str(root) for _, root in both)}",
        )
    if found:
        return found[0][1]
    names = sorted({name for place in known for name in place.bundles})
    families = {n.rpartition("_")[0] for n in names if n.rpartition("_")[2] in _PLANES}
    close = get_close_matches(path.name, sorted(families) + names, n=1)
    looked = list(dict.fromkeys(place.name for place in known))
    if not os.environ.get(VARIABLE):
        looked.append(f"${VARIABLE} (not set)")
    install = f"install diffrecon-bundles, give a path, or set {VARIABLE} to the folder of the bundles"
    raise ConfigError(
        "no such bundle",
        where="bundle",
        expected=f"a path, or one of {', '.join(names) or 'none'} (looked in {', '.join(looked)})",
        got=repr(path.name),
        mend=f"did you mean {close[0]!r}?" if close else install,
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
