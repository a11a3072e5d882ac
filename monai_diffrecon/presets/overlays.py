# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Finding the overlays of a bundle by name: its tasks, and the presets of methods, which all bundles share."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.registry import folders

#: Folder of the presets that all bundles share.
METHODS = Path(__file__).parent / "methods"
#: Where a bundle has overlays of its own, below ``configs``.
TASK, METHOD = "tasks", "methods"
#: What MRI calls a preset -> its name.
ALIASES = {"cg_sense": "cg_least_squares"}
#: Id of a preset that holds its summary and families, and has no part in a reconstruction.
ABOUT = "_method_"


@dataclass(frozen=True)
class Preset:
    """A preset of a method.

    Attributes:
        name: its name.
        path: its file.
        families: the families of operators that it applies to, as it says; empty when it does not.
        summary: one line.
    """

    name: str
    path: Path
    families: tuple[str, ...]
    summary: str


def overlays(kind: str, bundle: str | Path | None = None) -> dict[str, Path]:
    """Return name -> file of the tasks or the presets that a bundle can take; a file of its own wins.

    Presets of installed packages are among them: by their name, or as ``distribution:name`` where the name is taken.

    Args:
        kind: ``tasks`` or ``methods``.
        bundle: root of the bundle; None for what all bundles share.
    """
    found = _presets_of_packages() if kind == METHOD else {}
    if bundle is not None:
        found |= _files(Path(bundle) / "configs" / kind)
    return dict(sorted(found.items()))


def _files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in folder.glob("*.json")}


def _presets_of_packages() -> dict[str, Path]:
    """Return the presets of this package and of others; a name that is not unique is told by its package."""
    found, others = _files(METHODS), [(d, n, p) for d, folder in folders("methods") for n, p in _files(folder).items()]
    names = Counter([*found, *{(d, n): n for d, n, _ in others}.values()])
    return found | {name if names[name] == 1 else f"{dist}:{name}": path for dist, name, path in others}


def overlay_path(kind: str, name: object, bundle: str | Path | None = None, *, where: str) -> Path:
    """Return the file of a task or a preset.

    Args:
        kind: ``tasks`` or ``methods``.
        name: its name.
        bundle: root of the bundle; None for what all bundles share.
        where: who asks, for messages.

    Raises:
        ConfigError: no such overlay.
    """
    found = overlays(kind, bundle)
    if kind == METHOD and isinstance(name, str) and name not in found:
        name = ALIASES.get(name, name)
    if isinstance(name, str) and name in found:
        return found[name]
    close = get_close_matches(str(name), found, n=1)
    raise ConfigError(
        "no such preset" if kind == METHOD else f"the bundle {Path(bundle or '.').resolve().name} has no such task",
        where=where,
        expected=", ".join(found) or f"none, there is no configs/{kind}",
        got=repr(name),
        mend=f"did you mean {close[0]!r}?" if close else None,
    )


def presets(bundle: str | Path | None = None) -> list[Preset]:
    """Return the presets that a bundle can take, by name.

    Args:
        bundle: root of the bundle; None for what all bundles share.

    Raises:
        ConfigError: a file of the bundle that is not JSON.
    """
    return [_read(name, path) for name, path in overlays(METHOD, bundle).items()]


def copy_methods(bundle: str | Path) -> None:
    """Put the shared presets into a bundle that leaves the repository; files of its own stay.

    Args:
        bundle: root of the bundle.
    """
    target = Path(bundle) / "configs" / METHOD
    target.mkdir(parents=True, exist_ok=True)
    for path in METHODS.glob("*.json"):
        if not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)


def _read(name: str, path: Path) -> Preset:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError("cannot be read as JSON", where=f"preset {name}", got=type(error).__name__) from None
    said = content.get(ABOUT) if isinstance(content, Mapping) else None
    said = said if isinstance(said, Mapping) else {}
    return Preset(name, path, tuple(map(str, said.get("families", ()))), str(said.get("summary", "")))
