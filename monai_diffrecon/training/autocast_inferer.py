# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Forward passes in reduced precision."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_diffrecon.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class AutocastInferer(Inferer):
    """Calls the network under ``torch.autocast``; bfloat16 trains faster on CPUs that have it.

    Args:
        precision: ``float32``, ``bfloat16`` or ``float16``.
    """

    def __init__(self, precision: str = "float32") -> None:
        super().__init__()
        if precision not in _DTYPES:
            raise ConfigError(
                "unknown precision", where="train#inferer#precision", expected=", ".join(_DTYPES), got=repr(precision)
            )
        self.dtype = _DTYPES[precision]

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``network(inputs, ...)``."""
        reduced = self.dtype is not torch.float32
        with torch.autocast(inputs.device.type, dtype=self.dtype if reduced else None, enabled=reduced):
            return network(inputs, *args, **kwargs)
