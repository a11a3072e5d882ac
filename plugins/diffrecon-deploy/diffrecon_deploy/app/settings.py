# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What ``app.yaml`` says of the reconstruction."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.file_validation import Text, keys_of, validated


@dataclass(frozen=True)
class Settings:
    """The settings.

    Attributes:
        rules: file of rules of ``DICOMSeriesSelectorOperator``; a name without a folder is looked for beside the
            application.
        bundle: name of the bundle in the folder of models; None takes the only one.
        task: task of the bundle, or None for its own settings.
        method: preset of a method, or None.
        overrides: config id -> value.
        case: name of the case, or None for one made from the SeriesInstanceUID.
        keep_identity: the derived series belongs to the patient and the study of its source.
    """

    rules: Text
    bundle: Text | None = None
    task: Text | None = None
    method: Text | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    case: Text | None = None
    keep_identity: Annotated[bool, Field(strict=True)] = False


def read_settings(path: Path) -> Settings:
    """Read the section ``reconstruction`` of a YAML file.

    Raises:
        InputError: no such file, or not YAML.
        ConfigError: a setting that is unknown, missing or out of range.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError("cannot be read as YAML", where=path.name, got=type(error).__name__) from None
    given = content.get("reconstruction") if isinstance(content, dict) else None
    where = f"{path.name}#reconstruction"
    return validated(Settings, keys_of(Settings)(given, where), where)


def find_bundle(models: Path, name: str | None) -> Path:
    """Return the bundle in the folder of models, which may be the bundle itself.

    Raises:
        ConfigError: none, several, or no such bundle.
    """
    if name is None and (models / "configs" / "metadata.json").is_file():
        return models
    found = sorted(path.parent.parent for path in models.glob("*/configs/metadata.json"))
    chosen = found if name is None else [path for path in found if path.name == name]
    if len(chosen) != 1:
        raise ConfigError(
            "no such bundle" if name else "not one bundle",
            where="model",
            expected=name or "a folder with one bundle",
            got=", ".join(path.name for path in found) or "none",
            mend="set bundle in app.yaml" if found else "give the folder of a bundle, -m bundles/brain_mr",
        )
    return chosen[0]
