# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Regularizers as an option of a consistency step."""

from __future__ import annotations

from collections.abc import Sequence

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import Regularizer


def checked_regularizers(regularizers: Sequence[Regularizer] | Regularizer | None) -> tuple[Regularizer, ...]:
    """Return regularizers as a tuple.

    Raises:
        ConfigError: something that is no regularizer.
    """
    if regularizers is None:
        return ()
    items = (regularizers,) if isinstance(regularizers, Regularizer) else tuple(regularizers)
    for i, item in enumerate(items):
        if not isinstance(item, Regularizer):
            raise ConfigError(
                "not a regularizer",
                where=f"consistency#regularizers#{i}",
                expected="a Regularizer such as z_tv",
                got=type(item).__name__,
                mend="a score prior belongs under the id prior",
            )
    return items
