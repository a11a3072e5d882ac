# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What the panel of a viewer chooses of a bundle: ``displayable_configs``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monai_diffrecon.bundle.config import content_of, merged_config
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_integer

#: The choice that changes nothing.
DEFAULT = "default"
_WHERE = "displayable_configs"
_CHOICES = ("task", "method", "steps", "samples")


def chosen_options(
    options: Mapping[str, Any],
    choices: Mapping[str, Any] | None,
    bundle_root: str | Path,
    *,
    auxiliary_bundle: Any = "auto",
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Return the options of a reconstruction with the choices of a panel, such as that of MONAI Label.

    Args:
        options: config id -> content, among them ``sampler`` and ``num_samples``.
        choices: any of ``task`` (of the bundle), ``method`` (a preset), ``steps`` (of the sampler) and ``samples``. A
            list offers its entries, and stands for the first; ``default`` and 0 change nothing. A task or a method is
            merged with the bundle's own file: then that, and not ``options``, is the base.
        bundle_root: root of the bundle.
        auxiliary_bundle: bundles of other planes, see :func:`~monai_diffrecon.bundle.score_network.load_auxiliaries`.
        device: device of the networks.

    Raises:
        ConfigError: no such choice, task or method; or a number that is none.
    """
    chosen = {str(name): _first(value) for name, value in (choices or {}).items()}
    unknown = sorted(set(chosen) - set(_CHOICES))
    if unknown:
        raise ConfigError("no such choice", where=f"{_WHERE}#{unknown[0]}", expected=", ".join(_CHOICES))
    out = dict(options)
    task, method = (None if chosen.get(name) in ("", DEFAULT) else chosen.get(name) for name in ("task", "method"))
    if task is not None or method is not None:
        given = {"auxiliary_bundle": auxiliary_bundle} | ({} if device is None else {"device": str(device)})
        config = merged_config(Path(bundle_root), task=task, method=method, given=given)
        out = {name: content_of(config, name) for name in options}
    if steps := check_integer(chosen.get("steps") or 0, f"{_WHERE}#steps", low=0):
        out["sampler"] = {**out["sampler"], "steps": steps}
    if samples := check_integer(chosen.get("samples") or 0, f"{_WHERE}#samples", low=0):
        out["num_samples"] = samples
    return out


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list | tuple) else value
