# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Checks of a bundle's metadata about its score network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.numerics.option_checks import check_choice, check_integer, check_number


def check_spacing(value: object, where: str) -> tuple[float, float]:
    """Return the voxel size (mm) within a slice.

    Raises:
        ConfigError: not two numbers above 0.
    """
    first, second = _pair(value, where, "a voxel size", "[x, y] in mm")
    return check_number(first, where, low=0.0, open_low=True), check_number(second, where, low=0.0, open_low=True)


def check_window(value: object, where: str) -> tuple[int, int] | None:
    """Return the largest slice (height, width) in one piece, or None for no limit.

    Raises:
        ConfigError: neither None nor two integers from 1.
    """
    if value is None:
        return None
    height, width = _pair(value, where, "a window", "[height, width]")
    return check_integer(height, where, low=1), check_integer(width, where, low=1)


def check_intensity(value: object, where: str) -> dict[str, Any]:
    """Return how physical units map to network units.

    Raises:
        ConfigError: neither ``{"map": "percentile", "q": ...}`` nor ``{"map": "window", "low": ..., "high": ...}``.
    """
    block = _object(value, where, '{"map": "percentile" or "window", options}')
    kind = check_choice(block.get("map"), f"{where}#map", ("percentile", "window"))
    known = ("q",) if kind == "percentile" else ("low", "high")
    unknown = sorted(set(block) - {"map", *known})
    if unknown:
        expected = " and ".join(known)
        raise ConfigError("no such option", where=f"{where}#{unknown[0]}", expected=expected, got=unknown[0])
    if kind == "percentile":
        if "q" in block:
            check_number(block["q"], f"{where}#q", low=0.0, high=100.0, open_low=True)
    else:
        low = check_number(block.get("low"), f"{where}#low")
        check_number(block.get("high"), f"{where}#high", low=low, open_low=True)
    return block


def check_denoiser(value: object, where: str) -> dict[str, Any]:
    """Return the spec of the denoiser; its options are for the registry to check.

    Raises:
        ConfigError: no ``{"name": ..., **options}``.
    """
    block = _object(value, where, '{"name": ..., options}')
    if not isinstance(block.get("name"), str):
        raise ConfigError("not a plugin", where=where, expected='{"name": ..., options}', got=repr(block))
    return block


def check_anatomy(value: object, where: str) -> str | None:
    """Return what a network was trained on, or None when no one said.

    Raises:
        ConfigError: neither None nor a word.
    """
    if value is not None and not isinstance(value, str):
        raise ConfigError("not an anatomy", where=where, expected="a word such as head, brain or body", got=repr(value))
    return value


def channels_of(metadata: Mapping[str, Any], where: str) -> int:
    """Return the channels of the network's input; 1 when the metadata do not say.

    Args:
        metadata: all of them.
        where: the file, for messages.

    Raises:
        ConfigError: no integer from 1, or something else than a JSON object above it.
    """
    block, where = _input_format(metadata, where)
    return check_integer(block.get("num_channels", 1), f"{where}#num_channels", low=1)


def modality_of(metadata: Mapping[str, Any], where: str) -> str | None:
    """Return the modality of the network's input, as ``MR`` or ``CT``, or None when the metadata do not say.

    Args:
        metadata: all of them.
        where: the file, for messages.

    Raises:
        ConfigError: something else than a JSON object above it.
    """
    said = _input_format(metadata, where)[0].get("modality")
    return said if said in ("CT", "MR") else None


def _input_format(metadata: Mapping[str, Any], where: str) -> tuple[dict[str, Any], str]:
    block: dict[str, Any] = dict(metadata)
    for key in ("network_data_format", "inputs", "image"):
        where = f"{where}#{key}"
        block = _object(block.get(key, {}), where, "a JSON object")
    return block, where


def _pair(value: object, where: str, what: str, expected: str) -> tuple[Any, Any]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ConfigError(f"not {what}", where=where, expected=expected, got=repr(value))
    return value[0], value[1]


def _object(value: object, where: str, expected: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError("of the wrong type", where=where, expected=expected, got=repr(value))
    return dict(value)
