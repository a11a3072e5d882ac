# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Which series are reconstructed, and how."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.io.file_validation import Number, Text, checked, keys_of, read_json, validated
from monai_diffrecon.serve.server import Series

_Flag = Annotated[bool, Field(strict=True)]


def _pattern(value: Any, where: str) -> str:
    try:
        re.compile(value)
    except (re.error, TypeError, RecursionError, OverflowError) as error:
        raise ConfigError("not a regular expression", where=where, got=str(error)) from None
    return str(value)


@dataclass(frozen=True)
class Rule:
    """A kind of series and its reconstruction.

    Attributes:
        name: what logs and records call it.
        modality: ``CT`` or ``MR``.
        bundle: name or path of a bundle.
        description: regular expression that is searched for in the SeriesDescription, upper or lower case.
        senders: AE titles that a series may come from; empty: from anywhere.
        thickness: least slice thickness, mm; None takes any.
        task: task of the bundle, or None for its own settings.
        method: preset of a method, or None.
        overrides: config id -> value.
        send_to: names of the modalities, as configured in Orthanc, that it sends the derived series to.
        keep_identity: the derived series belongs to the patient and the study of its source; otherwise it is
            de-identified and belongs to a new study.
    """

    name: Text
    modality: Literal["CT", "MR"]
    bundle: Text
    description: Annotated[str, checked(_pattern)] = ""
    senders: tuple[Text, ...] = ()
    thickness: Annotated[Number, Field(gt=0)] | None = None
    task: Text | None = None
    method: Text | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    send_to: tuple[Text, ...] = ()
    keep_identity: _Flag = True

    def matches(self, series: Series) -> bool:
        """Say whether the rule is for a series; one that does not state its thickness is not 'thick enough'."""
        return (
            series.modality == self.modality
            and re.search(self.description, series.description, re.IGNORECASE) is not None
            and (not self.senders or series.sender in self.senders)
            and (self.thickness is None or (series.thickness is not None and series.thickness >= self.thickness))
        )


@dataclass(frozen=True)
class Rules:
    """The rules of a worker; the first that matches a series takes it.

    Attributes:
        rules: the rules.
        metadata: number of the user-defined metadata of Orthanc in which the state of a series is kept.
    """

    rules: Annotated[tuple[Annotated[Rule, checked(keys_of(Rule))], ...], Field(min_length=1)]
    metadata: Annotated[int, Field(strict=True, ge=1024, le=65535)] = 4100

    def rule_for(self, series: Series) -> Rule | None:
        """Return the first rule that matches, or None."""
        return next((rule for rule in self.rules if rule.matches(series)), None)


def read_rules(path: str | Path) -> Rules:
    """Read a JSON file of rules.

    Raises:
        InputError: no such file, or not JSON.
        ConfigError: an option that is unknown, missing or out of range, or two rules with the same name.
    """
    path = path_option(path, "--rules")
    rules = validated(Rules, keys_of(Rules)(read_json(path, path.name), path.name), path.name)
    names = [rule.name for rule in rules.rules]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ConfigError("a name twice", where=f"{path.name}#rules#{index}#name", got=name)
    return rules
