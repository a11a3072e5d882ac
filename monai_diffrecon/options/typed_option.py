# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The options of a command line, as they were typed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Config ids that hold a path or a name: a text, whatever it looks like.
TEXTS = frozenset(
    {"auxiliary_bundle", "bundle_root", "case_name", "cohort", "datalist", "dataset_dir", "experiment", "image", "keep"}
    | {"calibration", "output_dir", "pretrained", "reference", "region", "tracking_uri"}
)

#: A text in quotes, which are for Python.
_QUOTED = re.compile(r"(['\"]).*\1", re.DOTALL)


@dataclass(frozen=True)
class TypedOption:
    """One option.

    Attributes:
        name: its config id, ``#`` between the levels.
        value: what fire makes of it, ``1011`` of ``101_1`` for instance.
        text: what was typed, or None when there is none: a flag without a value, or a value of ``--args_file``.
    """

    name: str
    value: Any
    text: str | None = None

    @property
    def is_text(self) -> bool:
        """It holds a path or a name."""
        return self.name.rpartition("#")[2] in TEXTS

    @property
    def meant(self) -> Any:
        """The value, but of a path or a name the text: fire takes ``1_1``, ``1e3`` and ``a#b`` for Python."""
        quoted = isinstance(self.value, str) and self.text is not None and _QUOTED.fullmatch(self.text) is not None
        listed = isinstance(self.value, list | tuple) and self.name.rpartition("#")[2] == "auxiliary_bundle"
        if not self.is_text or self.text is None or self.value is None or quoted or listed:
            return self.value
        return self.text


def typed_options(arguments: Sequence[str]) -> list[TypedOption]:
    """Return the named options of a command line, in order, read as fire reads those of ``monai.bundle run``.

    Args:
        arguments: what follows the word ``run``.
    """
    arguments = list(arguments)
    if "--" in arguments:  # what follows is for fire itself
        arguments = arguments[: arguments.index("--")]
    found, number = [], 0
    while number < len(arguments):
        argument, number = arguments[number], number + 1
        if not _is_flag(argument):
            continue
        name, equals, text = argument.lstrip("-").partition("=")
        name = name.replace("-", "_").replace("::", "#")
        if not equals and (number == len(arguments) or _is_flag(arguments[number])):
            off = name.startswith("no")  # so fire reads it
            found.append(TypedOption(name.removeprefix("no") if off else name, not off))
            continue
        if not equals:
            text, number = arguments[number], number + 1
        found.append(TypedOption(name, _parsed(text), text))
    return found


def _is_flag(argument: str) -> bool:
    return argument.startswith("--") or re.match("-[a-zA-Z]", argument) is not None


def _parsed(text: str) -> Any:
    from fire.parser import DefaultParseValue

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python, about backslashes
        return DefaultParseValue(text)
