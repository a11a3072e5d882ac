# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a client may choose: a task or a method by its name, and the numbers of steps and samples. Never a path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_diffrecon.bundle.choices import DEFAULT
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_choice, check_integer
from monai_diffrecon.presets.overlays import METHOD, TASK, overlays

#: Names of the configuration that chooses nothing: ours, and the one that OpenRecon always sends.
NAME, _OPENRECON = "diffrecon", "openrecon"
#: Bytes of a configuration.
LONGEST = 1 << 16
_WHERE = "configuration"
#: Choice -> most of it that a client may ask for.
_MOST = {"steps": 1000, "samples": 32}
_NOTHING = (None, "", 0, DEFAULT, NAME, _OPENRECON)


class Offer:
    """What the server lets clients choose.

    Attributes:
        names: choice -> names to choose from.

    Args:
        bundle: root of the bundle.
    """

    def __init__(self, bundle: Path) -> None:
        self.names = {"task": list(overlays(TASK, bundle)), "method": list(overlays(METHOD, bundle))}

    def read(self, text: str) -> dict[str, Any]:
        """Return the choices of a configuration.

        Args:
            text: ``diffrecon``, the name of a task or a method, or JSON: choice -> value, or that as ``parameters``,
                as OpenRecon sends it. ``default``, 0 and nothing choose nothing.

        Raises:
            ConfigError: something else.
        """
        text = text.strip()
        if not text.startswith("{"):
            return self._named(text)
        try:
            said = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError("not JSON", where=_WHERE, got=type(error).__name__) from None
        said = said.get("parameters", said)
        if not isinstance(said, Mapping):
            raise ConfigError("not a configuration", where=_WHERE, expected="choice -> value in JSON")
        known = ("config", *self.names, *_MOST)
        if unknown := sorted(set(said) - {*known, "version"}):
            raise ConfigError("no such choice", where=_WHERE, expected=", ".join(known), got=repr(unknown[0]))
        choices = self._named(said.get("config", NAME))
        for name, words in self.names.items():
            if said.get(name) not in _NOTHING:
                choices[name] = check_choice(said[name], f"{_WHERE}#{name}", words)
        for name, most in _MOST.items():
            if said.get(name) not in _NOTHING:
                choices[name] = check_integer(said[name], f"{_WHERE}#{name}", low=1, high=most)
        return choices

    def _named(self, name: object) -> dict[str, Any]:
        if name in _NOTHING:
            return {}
        known = [NAME, *(word for words in self.names.values() for word in words)]
        check_choice(name, _WHERE, known)
        return {next(kind for kind, words in self.names.items() if name in words): name}
