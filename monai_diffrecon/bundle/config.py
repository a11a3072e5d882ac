# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The configuration of a bundle with a task, a method and overrides, merged, checked and trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from monai.bundle import ConfigParser

from monai_diffrecon.bundle.former_names import with_public_names
from monai_diffrecon.bundle.inspection.require_trusted import require_trusted
from monai_diffrecon.errors import ConfigError, DiffReconError
from monai_diffrecon.errors.uncaught import chain_of
from monai_diffrecon.options.known_ids import is_known, nearest, present_id
from monai_diffrecon.presets.overlays import METHOD, TASK, overlay_path
from monai_diffrecon.privacy.redaction import redact

T = TypeVar("T")


def merged_config(
    bundle: Path,
    *,
    task: str | None = None,
    method: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
    refused: Mapping[str, str] | None = None,
    where: str = "",
) -> ConfigParser:
    """Return the configuration of a bundle; nothing is evaluated until all of it is trusted.

    Args:
        bundle: root of the bundle.
        task: name of a task of the bundle.
        method: name of a preset.
        overrides: config id -> value. The user's: an id that is not known is refused.
        given: config id -> value, set by the caller after that.
        refused: id that may not be overridden -> what to do instead.
        where: what precedes the config id in messages.

    Raises:
        ConfigError: no such overlay or id, or configs that cannot be read.
        IntegrityError: a configuration that runs untrusted code.
    """
    at = f"{where}: " if where else ""
    files = [bundle / "configs" / "inference.json"]
    for kind, name, what in ((TASK, task, "task"), (METHOD, method, "preset")):
        if name is not None:
            files.append(overlay_path(kind, name, bundle, where=f"{at}{what}"))
    config = ConfigParser()
    try:
        config.read_config([str(file) for file in files])
    except Exception as error:
        raise ConfigError("configs that cannot be read", where=where or None, got=type(error).__name__) from error
    known = with_public_names(config.get())
    config = ConfigParser(known)
    for name, value in (overrides or {}).items():
        id_, first = f"{at}overrides#{name}", str(name).partition("#")[0]
        if first in (refused or {}):
            raise ConfigError("not an option here", where=id_, mend=(refused or {})[first])
        name = present_id(known, name.replace("::", "#")) if isinstance(name, str) else name
        if not (isinstance(name, str) and is_known(known, name)):
            near = nearest(known, str(name))
            mend = None if near is None else f"did you mean {near!r}?"
            raise ConfigError("the bundle has no such id", where=id_, mend=mend)
        try:
            config.update({name: value})
        except (KeyError, IndexError, ValueError, TypeError):
            raise ConfigError("the bundle has no such id", where=id_) from None
    config.update({"bundle_root": str(bundle), **(given or {})})
    require_trusted(config.get(), root=bundle, where=where)
    return config


def content_of(config: ConfigParser, name: str, where: str = "") -> Any:
    """Return the object of an id of a trusted configuration, building its parts.

    Raises:
        ConfigError: no such id, or it cannot be built.
        DiffReconError: what a component raises, where it is preceded by ``where``.
    """
    at = f"{where}: " if where else ""
    if name not in config.get():
        raise ConfigError("the bundle has no such id", where=f"{at}{name}")
    try:
        return unwrapped(lambda: config.get_parsed_content(name))
    except DiffReconError as error:
        raise type(error)(
            error.what, where=f"{at}{error.where or name}", expected=error.expected, got=error.got, mend=error.mend
        ) from error
    except Exception as error:
        cause = list(chain_of(error))[-1]
        raise ConfigError("cannot be built", where=f"{at}{name}", got=redact(str(cause)[:200])) from error


def unwrapped(call: Callable[[], T]) -> T:
    """Call, and raise our own error instead of those that MONAI wraps around it."""
    try:
        return call()
    except DiffReconError:
        raise
    except Exception as error:
        ours = next((cause for cause in chain_of(error) if isinstance(cause, DiffReconError)), None)
        if ours is None:
            raise
        raise ours from error
