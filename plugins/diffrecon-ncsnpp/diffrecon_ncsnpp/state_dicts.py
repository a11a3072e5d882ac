# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Checks of foreign weights: every complaint names the tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from monai_diffrecon.errors import ConfigError, InputError

_Hashable = TypeVar("_Hashable", bound=Hashable)


def tensors_of(mapping: object, where: str, prefix: str = "") -> dict[str, Tensor]:
    """Return a state dict as plain tensors, ``prefix`` taken off every name.

    Raises:
        InputError: no mapping of names to tensors, or some of the names have the prefix and some do not.
    """
    if not isinstance(mapping, Mapping) or not mapping:
        raise InputError("no weights", where=where, expected="a state dict", got=type(mapping).__name__)
    strays = [str(k) for k, v in mapping.items() if not isinstance(k, str) or not isinstance(v, Tensor)]
    if strays:
        raise InputError("not a state dict", where=where, expected="tensors by name", got=f"others: {listed(strays)}")
    prefixed = [k for k in mapping if k.startswith(prefix)]
    if prefixed and len(prefixed) < len(mapping):
        bare = [k for k in mapping if not k.startswith(prefix)]
        raise InputError(f"names without the prefix {prefix!r} of the others", where=where, got=listed(bare))
    cut = len(prefix) if prefixed else 0
    return {k[cut:]: v.detach().as_subclass(Tensor) for k, v in mapping.items()}


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], where: str, hint: str | None = None
) -> None:
    """Compare names and shapes, both ways, and look for numbers that are not finite.

    Args:
        tensors: what there is.
        expected: shape of each tensor that has to be there; no others may be.
        where: the file or component for messages.
        hint: how to mend a mismatch.

    Raises:
        InputError: tensors missing, superfluous or of another shape, or not finite.
    """
    faults = []
    if missing := [k for k in expected if k not in tensors]:
        faults.append(f"missing {listed(missing)}")
    if extra := [k for k in tensors if k not in expected]:
        faults.append(f"superfluous {listed(extra)}")
    wrong = [k for k in expected if k in tensors and tuple(tensors[k].shape) != tuple(expected[k])]
    if wrong:
        shapes = [f"{k} {tuple(tensors[k].shape)} instead of {tuple(expected[k])}" for k in wrong]
        faults.append(f"of a wrong shape {listed(shapes)}")
    if faults:
        raise InputError("weights do not fit the layout", where=where, got="; ".join(faults), mend=hint)
    check_finite(tensors, where)


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights with a NaN or an infinity, and tensors of whole numbers.

    Raises:
        InputError: there are such.
    """
    if integral := [k for k, v in tensors.items() if not v.is_floating_point()]:
        raise InputError("weights that are no floating-point numbers", where=where, got=listed(integral))
    if broken := [k for k, v in tensors.items() if not bool(torch.isfinite(v).all())]:
        raise InputError(
            "weights that are not finite", where=where, got=listed(broken), mend="take an earlier checkpoint"
        )


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return names in one line, the first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def most_common(values: Iterable[_Hashable], what: str, where: str) -> _Hashable:
    """Return the value that most tensors agree on, so that one misshapen tensor does not decide a layout.

    Raises:
        InputError: there are no values.
    """
    counts = Counter(values).most_common(1)
    if not counts:
        raise InputError(f"weights that would show {what} are missing", where=where)
    return counts[0][0]


def check_declared(declared: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse declared names that an importer does not know.

    Raises:
        ConfigError: there are such.
    """
    names = sorted(known)
    if unknown := [k for k in declared if k not in names]:
        raise ConfigError(
            f"cannot declare {listed(unknown)}",
            where=where,
            expected=f"some of {', '.join(names)}",
            got=listed(unknown),
        )


def check_agreement(declared: Mapping[str, Any], found: Mapping[str, Any], where: str) -> None:
    """Compare what was declared with what a file shows; names that the file does not show are left alone.

    Raises:
        InputError: they differ.
    """
    differing = [k for k in declared if k in found and not _same(declared[k], found[k])]
    if differing:
        raise InputError(
            "the checkpoint is not what was declared",
            where=where,
            expected=", ".join(f"{k} {_plain(declared[k])!r}" for k in differing),
            got=", ".join(f"{k} {_plain(found[k])!r}" for k in differing),
        )


def _same(a: object, b: object) -> bool:
    a, b = _plain(a), _plain(b)
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-5 * abs(b)
    return a == b


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
