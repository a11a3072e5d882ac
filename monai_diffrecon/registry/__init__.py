# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Plugins by name: discovery, and the contract of each kind."""

from monai_diffrecon.registry.construction import build, check_options, create, current
from monai_diffrecon.registry.contract import KINDS
from monai_diffrecon.registry.discovery import (
    KNOWN_PROVIDERS,
    PluginInfo,
    available,
    canonical,
    current_name,
    distribution_of,
    folders,
    load,
    name_of,
    refresh,
)

__all__ = [
    "KINDS",
    "KNOWN_PROVIDERS",
    "PluginInfo",
    "available",
    "build",
    "canonical",
    "check_options",
    "create",
    "current",
    "current_name",
    "distribution_of",
    "folders",
    "load",
    "name_of",
    "refresh",
]
