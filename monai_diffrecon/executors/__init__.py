# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Built-in executors."""

from typing import TYPE_CHECKING

from monai_diffrecon._lazy import lazy

if TYPE_CHECKING:
    from monai_diffrecon.executors.processes import ProcessesExecutor
    from monai_diffrecon.executors.serial import SerialExecutor
else:
    __getattr__ = lazy(__name__)
