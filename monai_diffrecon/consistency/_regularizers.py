# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Regularizers as an option of a consistency step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

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


def with_pull(rhs: Tensor, regularizers: Sequence[Regularizer], memory: dict[str, Tensor], rho: float) -> Tensor:
    """Return ``rhs + rho sum K_i^T (z_i - w_i)``; z = w = 0 before the first iteration."""
    for i, regularizer in enumerate(regularizers):
        if f"z{i}" in memory:
            rhs = rhs + rho * regularizer.adjoint(memory[f"z{i}"] - memory[f"w{i}"])
    return rhs


def update_duals(x: Tensor, regularizers: Sequence[Regularizer], memory: dict[str, Tensor]) -> None:
    """Set ``z_i = prox(K_i x + w_i)`` and ``w_i += K_i x - z_i`` in ``memory``."""
    for i, regularizer in enumerate(regularizers):
        v = regularizer.transform(x)
        if f"w{i}" in memory:
            v = v + memory[f"w{i}"]
        z = regularizer.prox(v, regularizer.threshold)
        memory[f"z{i}"], memory[f"w{i}"] = z, v - z
