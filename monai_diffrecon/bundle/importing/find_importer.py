# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reads a checkpoint with the importer for its layout."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from monai_diffrecon import registry
from monai_diffrecon.bundle.checkpoint_file import load_checkpoint
from monai_diffrecon.bundle.wrapped_weights import layers_of
from monai_diffrecon.errors import ConfigError, InputError, IntegrityError, PluginError
from monai_diffrecon.protocols import CheckpointImporter

AUTO = "auto"


def read_checkpoint(path: str | Path, name: str = AUTO) -> tuple[str, CheckpointImporter, dict[str, Any]]:
    """Read a checkpoint, with nothing allowed but what the importer that converts it names.

    Args:
        path: the file, or a folder of the library diffusers.
        name: name of an importer; ``auto`` asks each installed one whether it recognises the content.

    Returns:
        Name of the importer, the importer, and the content.

    Raises:
        ConfigError: several importers recognise the content.
        InputError: no such file, damaged, or of a layout that no installed importer recognises.
        IntegrityError: the file calls what weights do not need.
        PluginError: no such importer, or none at all.
    """
    where = f"checkpoint {Path(path).name}"
    if name != AUTO:
        importer = registry.create("importers", name)
        content = load_checkpoint(path, importer.allowed_globals)
        known = next((layer for layer in layers_of(content, where) if importer.recognises(layer)), content)
        return name, importer, known
    importers = _installed()
    if not importers:
        raise PluginError("no importer is installed", where=where, mend="install one, for instance diffrecon-ncsnpp")
    refused: IntegrityError | None = None
    asked: set[str] = set()
    # The strictest list first. What it lets in, a longer one lets in as well, and the content is the same.
    for allowed in sorted({i.allowed_globals for i in importers.values()}, key=len):
        askable = {k: i for k, i in importers.items() if k not in asked and set(allowed) <= set(i.allowed_globals)}
        if not askable:
            continue
        try:
            content = load_checkpoint(path, allowed)
        except IntegrityError as error:
            refused = error
            continue
        asked |= askable.keys()
        for layer in layers_of(content, where):
            found = [k for k, importer in askable.items() if importer.recognises(layer)]
            if len(found) > 1:
                raise ConfigError(
                    f"recognised by several importers: {', '.join(found)}", where=where, mend="choose one with --format"
                )
            if found:
                return found[0], askable[found[0]], layer
    if refused is not None:
        raise refused
    raise InputError(
        "no installed importer recognises the layout",
        where=where,
        expected=f"a checkpoint for {', '.join(importers)}",
        mend="select the importer with --format to see what is missing",
    )


def _installed() -> dict[str, CheckpointImporter]:
    """Return the usable importers, skipping broken ones."""
    importers: dict[str, CheckpointImporter] = {}
    for info in registry.available("importers"):
        with suppress(PluginError):
            plain = info.name not in importers
            full = f"{info.distribution}:{info.name}"
            importers[info.name if plain else full] = registry.create("importers", full)
    return importers
