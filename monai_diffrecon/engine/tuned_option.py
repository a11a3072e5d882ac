# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The option of a reconstruction that is tuned for each measurement, and its candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from monai_diffrecon.engine.plugin_objects import ObjectSpec, Spec
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer, check_number

_WHERE = "inferer#tune"
#: Plugins whose options may be tuned. Another operator would be another measurement.
_TUNED = ("prior", "consistency", "sampler")
NOISE = "inferer#noise_std"
_EXAMPLE = '{"option": "consistency#noise_weight", "values": [0.3, 1, 3]}'


@dataclass(frozen=True)
class TunedOption:
    """An option and its candidates.

    Args:
        option: config id of the option: of prior, consistency step or sampler, or ``inferer#noise_std``.
        values: the candidates, two or more.
        held_out: part of what was measured that the candidates have to predict, 0 to 0.5.
        slices: most slices of the middle of the volume that are reconstructed with each candidate; None for all.

    Raises:
        ConfigError: an option of the wrong type, or out of its range.
    """

    option: str
    values: tuple[Any, ...]
    held_out: float = 0.1
    slices: int | None = 32

    def __post_init__(self) -> None:
        # MONAI's ConfigParser writes every # of a configuration as ::.
        object.__setattr__(self, "option", str(self.option).replace("::", "#"))
        root, *path = self.option.split("#")
        if self.option != NOISE and (root not in _TUNED or not path or path[-1] in ("", "name")):
            raise ConfigError(
                "not an option that can be tuned",
                where=f"{_WHERE}#option",
                expected=f"prior#..., consistency#..., sampler#... or {NOISE}",
                got=repr(self.option),
            )
        given = list(self.values) if isinstance(self.values, list | tuple) else []
        if len(given) < 2 or any(value in given[:i] for i, value in enumerate(given)):
            raise ConfigError(
                "no candidates to choose from",
                where=f"{_WHERE}#values",
                expected="a list of two or more different values",
                got=repr(self.values),
            )
        object.__setattr__(self, "values", tuple(given))
        where = f"{_WHERE}#held_out"
        object.__setattr__(self, "held_out", check_number(self.held_out, where, low=0.0, high=0.5, open_low=True))
        if self.slices is not None:
            object.__setattr__(self, "slices", check_integer(self.slices, f"{_WHERE}#slices", low=1))

    def described(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"values": list(self.values)}

    def changed(self, specs: Mapping[str, Spec], value: Any) -> dict[str, Any]:
        """Return the attributes of a recipe that a candidate replaces.

        Args:
            specs: the plugins of the recipe.
            value: the candidate.

        Raises:
            ConfigError: a plugin given as an object, or a nested plugin that is not there.
        """
        if self.option == NOISE:
            return {"noise_std": value}
        root, *path = self.option.split("#")
        return {"specs": {**specs, root: self._with(specs[root], path, value)}}

    def _with(self, spec: Any, path: list[str], value: Any) -> Any:
        """Return nested options with one replaced."""
        name, *rest = path
        if isinstance(spec, list | tuple) and name.isdigit() and int(name) < len(spec) and rest:
            return [self._with(s, rest, value) if i == int(name) else s for i, s in enumerate(spec)]
        spec = {"name": spec} if isinstance(spec, str) else spec
        if not isinstance(spec, dict) or isinstance(spec, ObjectSpec) or (rest and name not in spec):
            raise ConfigError(
                "no such option in the configuration",
                where=f"{_WHERE}#option",
                expected="an option of a plugin given by its name",
                got=repr(self.option),
            )
        return {**spec, name: self._with(spec[name], rest, value) if rest else value}


def check_tune(value: Any) -> TunedOption | None:
    """Return the option ``tune``; None stays None.

    Raises:
        ConfigError: not a mapping with the right keys, or as of :class:`TunedOption`.
    """
    if value is None or isinstance(value, TunedOption):
        return value
    known = [field.name for field in fields(TunedOption)]
    if not isinstance(value, Mapping) or not {"option", "values"} <= value.keys() <= set(known):
        raise ConfigError(
            "not an option with its candidates",
            where=_WHERE,
            expected=_EXAMPLE,
            got=repr(value),
            mend=f"give option and values, and if need be {known[2]} and {known[3]}",
        )
    return TunedOption(**value)
