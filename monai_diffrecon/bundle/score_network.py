# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Loading a score network from a MONAI bundle, checked against its metadata."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_diffrecon.bundle.former_names import with_public_names
from monai_diffrecon.bundle.inspection.require_trusted import require_trusted
from monai_diffrecon.bundle.metadata import checked_metadata
from monai_diffrecon.bundle.weights import read_weights
from monai_diffrecon.bundle.wrapped_weights import without_prefixes
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_device, path_option
from monai_diffrecon.numerics.pixel_range import PixelSizes

logger = logging.getLogger(__name__)

#: The bundles of other planes that lie beside the primary's; no bundle.
BESIDE, _NONE = "auto", (None, "none", "null")


@dataclass(frozen=True)
class ScoreNetwork:
    """A 2D network with the metadata that a reconstruction needs.

    Attributes:
        name: name of the bundle.
        version: version of the bundle.
        network: the network, weights loaded, in evaluation mode.
        plane: plane of the slices it was trained on.
        spacing: voxel size (mm) within the slice, in RAS+ order, or the range of them that the network knows.
        denoiser: registry spec of the denoiser that converts its parameterization.
        intensity: how physical units map to network units, ``{"map": "percentile", "q": ...}`` or
            ``{"map": "window", "low": ..., "high": ...}``.
        sha256: hash of the weights' file.
        window: largest slice (height, width) denoised whole, or None.
        channels: channels of a slice; 2 for the real and the imaginary part.
        anatomy: what it was trained on, ``head``, ``brain`` or ``body``, or None.
        modality: of the scans it was trained on, as ``MR`` or ``CT``, or None.
        successor: the bundle that replaces this one, which is deprecated, or None.
    """

    name: str
    version: str
    network: nn.Module
    plane: str
    spacing: PixelSizes
    denoiser: dict[str, Any]
    intensity: dict[str, Any]
    sha256: str
    window: tuple[int, int] | None = None
    channels: int = 1
    anatomy: str | None = None
    modality: str | None = None
    successor: str | None = None


def load_score_network(
    bundle_root: str | Path,
    network: nn.Module | None = None,
    device: torch.device | str | None = None,
) -> ScoreNetwork:
    """Load and check the score network of a bundle; a deprecated bundle is warned of.

    Args:
        bundle_root: root folder of the bundle.
        network: the network to fill; None builds ``network_def`` of ``configs/inference.json``.
        device: where to put it.

    Raises:
        InputError: no bundle, or the weights do not fit the network.
        ConfigError: an impossible value in the metadata, or no such device.
        IntegrityError: the weights file does not match the metadata, would run code, or is not finite; or the
            network must be built and the configuration would run untrusted code.
    """
    score = _load(bundle_root, network, device)
    _warn_if_deprecated(score)
    return score


def _warn_if_deprecated(score: ScoreNetwork) -> None:
    if score.successor is not None:
        logger.warning(
            "bundle %s is deprecated and will be removed in the next release: use %s", score.name, score.successor
        )


def _load(
    bundle_root: str | Path, network: nn.Module | None = None, device: torch.device | str | None = None
) -> ScoreNetwork:
    device = check_device(device, "device")
    root = path_option(bundle_root, "bundle_root")
    metadata, said, image = checked_metadata(root)
    block, where = metadata["diffrecon"], f"bundle {root.name}"
    state, digest = read_weights(root, block["weights"], where)
    net = network if network is not None else _network_def(root)
    try:
        net.load_state_dict(without_prefixes(state, net.state_dict().keys()), strict=True)
    except RuntimeError as error:
        raise InputError(
            "weights do not fit the network", where=f"{where}, network_def", got=str(error)[:300]
        ) from None
    net = net.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    net.requires_grad_(False)
    return ScoreNetwork(
        name=root.resolve().name,
        version=str(metadata.get("version", "?")),
        network=net,
        plane=said.plane,
        spacing=said.pixels,
        denoiser=block["denoiser"],
        intensity=said.intensity,
        sha256=digest,
        window=said.window,
        channels=image.num_channels,
        anatomy=said.anatomy,
        modality=image.modality if image.modality in ("CT", "MR") else None,
        successor=said.successor,
    )


def siblings(bundle_root: str | Path) -> list[str]:
    """Return the bundles of other planes that a bundle names in its metadata and that lie beside it.

    Args:
        bundle_root: root of the bundle.

    Raises:
        InputError: no bundle there.
        ConfigError: an impossible value in the metadata.
    """
    root = path_option(bundle_root, "bundle_root")
    names = checked_metadata(root)[1].auxiliary
    return [f"../{name}" for name in names if (root.resolve().parent / name / "configs").is_dir()]


def load_auxiliaries(
    paths: str | Sequence[str] | None,
    primary: ScoreNetwork,
    bundle_root: str | Path = ".",
    device: torch.device | str | None = None,
) -> tuple[ScoreNetwork, ...]:
    """Load the networks of other planes that share the primary's units.

    Args:
        paths: root or roots of auxiliary bundles, relative to ``bundle_root`` or to the working directory; ``auto`` for
            those that the primary's metadata name (``diffrecon#auxiliary``) and that lie beside it; None or ``none``
            for no network of another plane.
        primary: the primary network.
        bundle_root: root of the primary's bundle.
        device: where to put them.

    Raises:
        InputError: not a path or a list of them.
        ConfigError: a plane twice, or another intensity map. (Spacing is checked against the volume, later.)
    """
    if paths == BESIDE:
        paths = siblings(bundle_root)
    names = paths if isinstance(paths, list | tuple) else [] if paths in _NONE else [paths]
    loaded: list[ScoreNetwork] = []
    for name in (path_option(name, "auxiliary_bundle") for name in names):
        # Not through a symbolic link's parent: ``..`` is the folder that holds the bundle itself.
        beside = Path(bundle_root).resolve() / name
        auxiliary = _load(beside if beside.is_dir() else name, device=device)
        where = f"auxiliary_bundle {auxiliary.name}"
        if auxiliary.plane in {primary.plane, *(a.plane for a in loaded)}:
            raise ConfigError(
                "its plane is already in use",
                where=where,
                expected=f"another plane than {primary.plane}",
                got=auxiliary.plane,
                mend="use a bundle trained on a perpendicular plane",
            )
        if auxiliary.intensity != primary.intensity:
            raise ConfigError(
                "its intensity map differs", where=where, expected=primary.intensity, got=auxiliary.intensity
            )
        # The planes of a deprecated family are warned of once.
        if auxiliary.successor not in {primary.successor, *(a.successor for a in loaded)}:
            _warn_if_deprecated(auxiliary)
        loaded.append(auxiliary)
    return tuple(loaded)


def _network_def(root: Path) -> nn.Module:
    """Return the network of ``configs/inference.json``, once everything in there is trusted."""
    where = f"bundle {root.name}"
    try:
        config = json.loads((root / "configs" / "inference.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("cannot be read", where=f"{where}, inference.json", got=type(error).__name__) from None
    if not isinstance(config, dict) or "network_def" not in config:
        raise InputError("defines no network", where=f"{where}, inference.json", expected="an id network_def")
    config = with_public_names(config)
    # The inspected dict is the evaluated one: the file cannot change in between.
    require_trusted({**config, "bundle_root": str(root)}, root=root, where=f"{where}, inference.json")
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.update(config)
    parser["bundle_root"] = str(root)
    return parser.get_parsed_content("network_def")
