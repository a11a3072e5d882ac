# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Which bundles a server offers."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from monai_diffrecon.bundle.catalogue import BundleCard, catalogue, read_card
from monai_diffrecon.errors import ConfigError

logger = logging.getLogger(__name__)


def offered_bundles(conf: Mapping[str, str]) -> dict[str, BundleCard]:
    """Return the bundles that reconstruct scans, by name.

    Args:
        conf: ``--conf`` of the server. ``bundles``: a folder of bundles; without it, those that ``diffrecon bundles``
            lists. ``models``: names, separated by commas; without it, all.

    Raises:
        ConfigError: none is found, or one that is named cannot be used.
    """
    folder = conf.get("bundles")
    cards = catalogue() if folder is None else _in_folder(Path(folder).expanduser().resolve())
    usable = {card.name: card for card in cards if card.error is None and _reads_a_scan(card.root)}
    wanted = [name.strip() for name in conf.get("models", "").split(",") if name.strip()]
    broken = {card.name: card.error for card in cards if card.error is not None}
    for name in [name for name in wanted if name not in usable]:
        raise ConfigError(
            broken.get(name) or "no such bundle that reconstructs scans",
            where="--conf models",
            expected=", ".join(usable) or "a bundle, but none was found",
            got=name,
            mend=None if usable else "install diffrecon-bundles, or name a folder of bundles: --conf bundles FOLDER",
        )
    if not usable:
        raise ConfigError(
            "no bundles that reconstruct scans",
            where="--conf bundles",
            got=folder or "no folder",
            mend="install diffrecon-bundles, or name a folder of bundles: --conf bundles FOLDER",
        )
    for name, error in broken.items():
        logger.warning("left out: bundle %s: %s", name, error)
    return {name: usable[name] for name in wanted or usable}


def _in_folder(folder: Path) -> list[BundleCard]:
    return [read_card(path.parent.parent) for path in sorted(folder.glob("*/configs/metadata.json"))]


def _reads_a_scan(root: Path) -> bool:
    """Return whether a bundle has something to read: some draw without a scan."""
    try:
        config = json.loads((root / "configs" / "inference.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("preprocessing"))
