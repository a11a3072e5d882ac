# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Every registered plugin reconstructs in slabs what it does as a whole, or is refused."""

from __future__ import annotations

from typing import Any

import pytest

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import Problem
from monai_diffrecon.registry import PluginInfo

from .engine.test_slabs import in_slabs, reconstructed
from .raising import raises
from .test_laws_of_all_plugins import complex_problem, configurations, problem, refuses_complex

#: Options that reach across the slabs, and are refused where they say so.
ACROSS = ("boundary", "consistency#correlation_plane")


def plugins(info: PluginInfo, options: dict[str, Any]) -> dict[str, Any]:
    """Return a quick method with a plugin in it."""
    spec = {"name": f"{info.distribution}:{info.name}", **options}
    quick = {"sampler": {"name": "ddim", "steps": 2}}
    if info.kind == "regularizers":
        return {**quick, "consistency": {"name": "admm", "regularizers": [spec]}}
    return {**quick, {"samplers": "sampler", "priors": "prior", "noises": "noise"}.get(info.kind, info.kind): spec}


@pytest.mark.parametrize(
    "info",
    [i for i in registry.available() if i.kind in ("priors", "regularizers", "consistency", "samplers", "noises")],
    ids=lambda info: f"{info.kind}-{info.distribution}:{info.name}",
)
def test_same_in_slabs_or_refused(info: PluginInfo) -> None:
    for options in configurations(info):
        method = plugins(info, options)
        kind = type(registry.create(info.kind, f"{info.distribution}:{info.name}", **options))
        if info.kind != "noises" and not vars(kind).get("in_slabs", False):
            with raises(ConfigError, where="inferer#share", got=kind.__name__):
                in_slabs(problem(), 2, **method)
            continue
        check(problem(), method)
        if not refuses_complex(info, options):
            check(complex_problem(), method)


def check(of: Problem, method: dict[str, Any]) -> None:
    whole = reconstructed(of, **method)
    try:
        parts = in_slabs(of, 3, **method)
    except ConfigError as error:
        if error.where not in ACROSS:
            raise
        return
    error = float((parts - whole).abs().max()) / float(whole.abs().max())
    assert error <= 5e-5, f"{method}: off by {error:.3g}"
