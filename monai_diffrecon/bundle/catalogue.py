# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What the metadata and tasks of the known bundles say, for a person who chooses one. No code of a bundle is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_diffrecon.bundle.metadata import checked_metadata
from monai_diffrecon.bundle.places import places
from monai_diffrecon.errors import ConfigError, DiffReconError
from monai_diffrecon.numerics.pixel_range import PixelRange
from monai_diffrecon.presets.overlays import TASK, overlays


@dataclass(frozen=True)
class BundleCard:
    """A bundle in short.

    Attributes:
        name: name of its folder.
        place: where it was found.
        root: its root.
        title: its title.
        description: what it is.
        modality: ``MR``, ``CT`` or an empty string.
        anatomy: what it was trained on, or an empty string.
        pixels: voxel sizes within the slice, in words.
        tasks: task -> one line.
        version: its version.
        licence: of the weights.
        error: why it cannot be used; None if its metadata are in order.
    """

    name: str
    place: str
    root: Path
    title: str = ""
    description: str = ""
    modality: str = ""
    anatomy: str = ""
    pixels: str = ""
    tasks: dict[str, str] = field(default_factory=dict)
    version: str = ""
    licence: str = ""
    error: str | None = None


def catalogue() -> list[BundleCard]:
    """Return the bundles that are found by name, in the order of the places; of a name twice, the first."""
    cards: dict[str, BundleCard] = {}
    for place in places():
        for name, root in place.bundles.items():
            if name not in cards:
                cards[name] = read_card(root, place.name)
    return list(cards.values())


def read_card(root: Path, place: str = "") -> BundleCard:
    """Return the card of a bundle; its ``error`` says what is wrong with its metadata.

    Args:
        root: root of the bundle.
        place: where it was found.
    """
    name = root.resolve().name
    try:
        metadata, said, image = checked_metadata(root)
        tasks = {task: task_summary(path) for task, path in overlays(TASK, root).items()}
    except DiffReconError as error:
        return BundleCard(name, place, root, error=str(error))
    pixels = said.pixels
    if isinstance(pixels, PixelRange):
        sizes = f"{pixels.low:g} to {pixels.high:g} mm"
    else:
        sizes = f"{' x '.join(f'{size:g}' for size in pixels)} mm"
    modality = image.modality if isinstance(image.modality, str) else ""
    return BundleCard(
        name,
        place,
        root,
        title=str(metadata.get("name", "")),
        description=str(metadata.get("description", "")),
        modality=modality,
        anatomy=said.anatomy or "",
        pixels=sizes,
        tasks=tasks,
        version=str(metadata.get("version", "")),
        licence=str(metadata["diffrecon"].get("licence", "")),
    )


def task_summary(path: Path) -> str:
    """Return what a task measures, in one line.

    Args:
        path: file of the task.

    Raises:
        ConfigError: not a JSON object.
    """
    config = read_task(path)
    operator = config.get("operator")
    operator = operator if isinstance(operator, Mapping) else {"name": operator}
    options = ", ".join(f"{key} {value}" for key, value in operator.items() if key != "name" and _plain(value))
    measured = f"{operator.get('name') or 'as the bundle'}{f' ({options})' if options else ''}"
    return f"{measured}, simulated from an image" if config.get("simulate") is True else measured


def read_task(path: Path) -> dict[str, Any]:
    """Return the content of a task's file.

    Raises:
        ConfigError: not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError("cannot be read as JSON", where=f"task {path.stem}", got=type(error).__name__) from None
    if not isinstance(content, dict):
        raise ConfigError("not a task", where=f"task {path.stem}", expected="a JSON object")
    return content


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool) and not (isinstance(value, str) and value.startswith(("$", "@")))
