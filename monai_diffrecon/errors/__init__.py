# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong, in one line: the errors, the checks of options, and what a command prints."""

from monai_diffrecon.errors.errors import (
    BusyError,
    ConfigError,
    DiffReconError,
    InputError,
    IntegrityError,
    NumericalError,
    PluginError,
    ResourceError,
    ResumeMismatchError,
    common_kind,
)

__all__ = [
    "BusyError",
    "ConfigError",
    "DiffReconError",
    "InputError",
    "IntegrityError",
    "NumericalError",
    "PluginError",
    "ResourceError",
    "ResumeMismatchError",
    "common_kind",
]
