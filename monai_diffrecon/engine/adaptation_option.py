# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How a network is adapted to one measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer, check_number

_WHERE = "inferer#adaptation"


@dataclass(frozen=True)
class Adaptation:
    """Options of the adaptation.

    Args:
        steps: steps of Adam.
        learning_rate: its learning rate.
        layers: part of the weights that may change, from the last layer back; above 0, up to 1.
        held_out: part of the measurement that the network learns to predict, above 0, up to 0.5.
        slices: most slices of the middle of the volume that it learns from.
        patch: neighbouring slices a step.

    Raises:
        ConfigError: an option of the wrong type, or out of its range.
    """

    steps: int = 30
    learning_rate: float = 1e-4
    layers: float = 0.2
    held_out: float = 0.2
    slices: int = 24
    patch: int = 6

    def __post_init__(self) -> None:
        for name in ("steps", "slices", "patch"):
            object.__setattr__(self, name, check_integer(getattr(self, name), f"{_WHERE}#{name}", low=1))
        for name, high in (("learning_rate", 1.0), ("layers", 1.0), ("held_out", 0.5)):
            value = check_number(getattr(self, name), f"{_WHERE}#{name}", low=0.0, high=high, open_low=True)
            object.__setattr__(self, name, value)


def check_adaptation(value: Any) -> Adaptation | None:
    """Return the option ``adaptation``: None, true for the default, or a mapping.

    Raises:
        ConfigError: something else, or as of :class:`Adaptation`.
    """
    if value is None or isinstance(value, Adaptation):
        return value
    value = {} if value is True else value
    known = [field.name for field in fields(Adaptation)]
    if not isinstance(value, Mapping) or not value.keys() <= set(known):
        raise ConfigError(
            "not options of an adaptation",
            where=_WHERE,
            expected=f"true, null, or a mapping with any of {', '.join(known)}",
            got=repr(value),
        )
    return Adaptation(**value)
