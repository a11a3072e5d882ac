# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Settings that depend on the family of an operator."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError

logger = logging.getLogger(__name__)

#: Key of the settings for operators that do not state a family.
OTHER = "other"
_LACKING: Any = object()


def family_of(operator: object) -> str | None:
    """Return the family of an operator, as its class states it (:attr:`Operator.family`).

    Args:
        operator: its name, ``{"name": ..., options}``, its class, or the operator itself. It is not built.

    Raises:
        ConfigError: none of these.
        PluginError: no such operator, or it is broken.
    """
    from monai_diffrecon.protocols import Operator

    if isinstance(operator, Operator) or (isinstance(operator, type) and issubclass(operator, Operator)):
        return operator.family
    name = operator.get("name") if isinstance(operator, Mapping) else operator
    if not isinstance(name, str):
        raise ConfigError(
            "not an operator",
            where="operator",
            expected='a name or {"name": ..., options}',
            got=f"{type(operator).__name__} {operator!r:.80}",
        )
    family: str | None = registry.load("operators", name).family
    return family


def by_family(
    operator: object,
    *,
    ct: Any = _LACKING,
    mri: Any = _LACKING,
    image: Any = _LACKING,
    none: Any = _LACKING,
    other: Any = _LACKING,
) -> Any:
    """Return the setting for the family of an operator; the ``_target_`` of blocks in presets.

    A family that is left out is refused: the method does not apply to it.

    Args:
        operator: as in :func:`family_of`.
        ct: setting for projections.
        mri: setting for k-space.
        image: setting for images, such as thick slices.
        none: setting where nothing is measured.
        other: setting for operators that do not state a family.

    Raises:
        ConfigError: no setting for this family.
        PluginError: no such operator, or it is broken.
    """
    given = {"ct": ct, "mri": mri, "image": image, "none": none, OTHER: other}
    settings = {family: value for family, value in given.items() if value is not _LACKING}
    family = family_of(operator) or OTHER
    if family not in settings:
        raise ConfigError(
            "the preset does not apply to this operator",
            where="operator",
            expected=f"an operator of the family {' or '.join(f for f in settings if f != OTHER)}",
            got=f"{_name(operator)}, of the family {family}"
            if family != OTHER
            else f"{_name(operator)}, which has none",
            mend="use another preset (`diffrecon methods` lists their families), or the task of the measurement",
        )
    if family == OTHER:
        _say(_name(operator))
    return settings[family]


@cache
def _say(name: str) -> None:
    """Log, once a process, that a preset cannot tell what an operator measures."""
    logger.warning(
        f"operator {name} does not state its family (ct, mri, image): the preset's general settings are used"
    )


def _name(operator: object) -> str:
    name = operator.get("name") if isinstance(operator, Mapping) else operator
    return name if isinstance(name, str) else getattr(operator, "__name__", type(operator).__name__)
