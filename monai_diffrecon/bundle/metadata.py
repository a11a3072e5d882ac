# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The score network as described in a bundle's metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_choice, check_integer, path_option
from monai_diffrecon.io.file_validation import Number, Text, at, checked, keys_of, needed_keys, read_json, validated
from monai_diffrecon.numerics.pixel_range import MOST_OBLONG, PixelRange, PixelSizes
from monai_diffrecon.numerics.planes import check_plane

_Length = Annotated[Number, Field(gt=0)]
_Count = Annotated[int, checked(partial(check_integer, low=1))]
_Lengths: Any = tuple[_Length, _Length] | None
_Window: Any = tuple[_Count, _Count] | None


def check_window(value: object, where: str) -> tuple[int, int] | None:
    """Return the largest slice (height, width) processed whole, or None for no limit.

    Raises:
        ConfigError: neither None nor two integers from 1.
    """
    return validated(_Window, value, where)


def _names(value: object, where: str) -> list[str]:
    names = [value] if isinstance(value, str) and value else value or []
    if not isinstance(names, list) or not all(isinstance(n, str) and n and Path(n).name == n for n in names):
        raise ConfigError("not names of bundles", where=where, expected="a name or a list of names", got=repr(value))
    return names


def _successor(value: object, where: str) -> str | None:
    return None if value is None else _names([value], where)[0]


def check_range(value: object, where: str) -> tuple[float, float] | None:
    """Return the shortest and the longest side of a pixel (mm), or None.

    Raises:
        ConfigError: neither None nor two lengths above 0 in ascending order.
    """
    said = validated(_Lengths, value, where)
    if said is not None and said[0] > said[1]:
        raise ConfigError("an empty range", where=where, expected="the smaller length first", got=repr(list(said)))
    return said


@dataclass(frozen=True)
class _Percentile:
    map: str
    q: Annotated[Number, Field(gt=0, le=100)] = 99.5


@dataclass(frozen=True)
class _Range:
    map: str
    low: Number
    high: Number


def _intensity(value: object, where: str) -> dict[str, Any]:
    block = validated(dict[str, Any], value, where)
    maps: dict[str, type[_Percentile | _Range]] = {"percentile": _Percentile, "window": _Range}
    kind = maps[check_choice(block.get("map"), "map", tuple(maps))]
    said = validated(kind, keys_of(kind)(block, where), where)
    if isinstance(said, _Range) and not 0 < said.high - said.low < math.inf:
        raise ConfigError("an empty window", where="high", expected=f"above {said.low:g}", got=f"{said.high:g}")
    return block


@dataclass(frozen=True)
class _Plugin:
    name: Text


@dataclass(frozen=True)
class _Weights:
    file: Annotated[Path, checked(path_option)]
    sha256: Text


@dataclass(frozen=True)
class ScoreMetadata:
    """The block ``diffrecon`` of a bundle's metadata, see :class:`~monai_diffrecon.bundle.score_network.ScoreNetwork`.

    Attributes:
        plane: plane of the slices.
        intensity: how physical units map to network units.
        denoiser: registry spec of the denoiser; its options are for the registry to check.
        weights: file and sha256 of the weights.
        window: largest slice (height, width) processed whole, or None for no limit.
        anatomy: the anatomy the network was trained on, or None if not stated.
        auxiliary: names of the bundles of other planes.
        successor: name of the bundle that replaces this one, which is deprecated; None for a bundle that is not.
        spacing: voxel size (mm) within the slice; None for a network of a range.
        spacing_range: shortest and longest side (mm) of a voxel within the slice, instead of ``spacing``.
        spacing_ratio: of a network of a range: longer over shorter side of a voxel within the slice.
    """

    plane: Annotated[str, checked(check_plane)]
    intensity: Annotated[dict[str, Any], checked(_intensity)]
    denoiser: _Plugin
    weights: Annotated[_Weights, checked(partial(validated, _Weights, error=InputError))]
    window: tuple[_Count, _Count] | None = None
    anatomy: str | None = None
    auxiliary: Annotated[list[str], checked(_names)] = field(default_factory=list)
    successor: Annotated[str | None, checked(_successor)] = None
    spacing: tuple[_Length, _Length] | None = None
    spacing_range: Annotated[tuple[float, float] | None, checked(check_range)] = None
    spacing_ratio: Annotated[Number, Field(ge=1)] = MOST_OBLONG

    @property
    def pixels(self) -> PixelSizes:
        """The voxel sizes within the slice that the network knows."""
        if self.spacing_range is not None:
            return PixelRange(*self.spacing_range, self.spacing_ratio)
        assert self.spacing is not None  # one of both, see check_metadata
        return self.spacing


@dataclass(frozen=True)
class InputImage:
    """The network's input: its channels, and the modality that the metadata name, ``MR`` or ``CT`` for instance."""

    num_channels: _Count = 1
    modality: Any = None


def check_metadata(metadata: object, bundle: str) -> tuple[ScoreMetadata, InputImage]:
    """Return what metadata say of the network and of its input.

    Args:
        metadata: content of ``metadata.json``.
        bundle: what messages call the bundle.

    Raises:
        InputError: not the metadata of a score network, or without its weights.
        ConfigError: an impossible value.
    """
    block = metadata.get("diffrecon") if isinstance(metadata, dict) else None
    needed = needed_keys(ScoreMetadata)
    if not isinstance(block, dict) or "spacing_range" not in block:
        needed.insert(1, "spacing")
    missing = [name for name in needed if not isinstance(block, dict) or name not in block]
    if missing or not isinstance(metadata, dict):
        raise InputError(
            "not the metadata of a score network",
            where=f"{bundle}, configs/metadata.json#diffrecon",
            expected=", ".join(needed),
            got=f"without {', '.join(missing)}",
        )
    image, where = metadata, f"{bundle}, metadata.json"
    for key in ("network_data_format", "inputs", "image"):
        image, where = validated(dict[str, Any], image.get(key, {}), at(where, key)), at(where, key)
    said = validated(ScoreMetadata, block, f"{bundle}, diffrecon")
    if (said.spacing is None) == (said.spacing_range is None):
        raise ConfigError(
            "voxel sizes stated twice" if said.spacing else "no voxel size",
            where=f"{bundle}, diffrecon#spacing_range",
            expected="either spacing or spacing_range",
            got=f"spacing {said.spacing}, spacing_range {said.spacing_range}",
        )
    return said, validated(InputImage, image, where)


def checked_metadata(root: Path) -> tuple[dict[str, Any], ScoreMetadata, InputImage]:
    """Return a bundle's ``metadata.json``, and what it says of the network and of its input.

    Args:
        root: root folder of the bundle.

    Raises:
        InputError: no bundle there, or not the metadata of a score network.
        ConfigError: an impossible value.
    """
    bundle = f"bundle {root.name}"
    path = root / "configs" / "metadata.json"
    if not path.is_file():
        raise InputError(
            "no bundle",
            where=bundle,
            expected="a folder with configs/metadata.json",
            got="no such file",
            mend="give the path of a bundle's root",
        )
    metadata = read_json(path, f"{bundle}, configs/metadata.json")
    return metadata, *check_metadata(metadata, bundle)


def read_metadata(bundle_root: str | Path) -> dict[str, Any]:
    """Return a bundle's ``metadata.json``, checked.

    Raises:
        InputError: no bundle there, or not the metadata of a score network.
        ConfigError: an impossible value.
    """
    return checked_metadata(path_option(bundle_root, "bundle_root"))[0]
