# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Weights nested in checkpoints of training scripts, with name prefixes of wrappers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor

from monai_diffrecon.errors import InputError

#: What the weights are called in a file of a training; averaged ones say so in any case.
_WEIGHTS = {"state_dict", "model_state_dict", "model", "network", "net", "unet", "weights", "params"}
_AVERAGED = ("ema", "averag", "shadow")
#: Prefixes of torch: DataParallel and its like, torch.compile. The second may stand before any module.
_PARALLEL, _COMPILED = "module.", "_orig_mod."
#: What torch's AveragedModel adds to the weights of its module.
_COUNT = "n_averaged"
_DEEPEST = 8


def layers_of(content: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Yield the candidates of a checkpoint: itself and its entries, each without prefixes of wrappers.

    Args:
        content: the content of a file.
        where: the file, for messages.

    Raises:
        InputError: it holds several state dicts, and the choice is ambiguous.
    """
    for _ in range(_DEEPEST):
        if not (is_state_dict(content) and _COUNT in content):  # no weight, which importers know nothing of
            yield content
        plain = {k: without_prefixes(v) if is_state_dict(v) else v for k, v in content.items()}
        yield without_prefixes(content) if is_state_dict(content) else plain
        inner = _inner(content, where)
        if inner is None:
            return
        content = dict(inner)


def state_dict_in(content: Any, where: str) -> Any:
    """Return the state dict within a checkpoint; what holds none, as it is.

    Raises:
        InputError: there are several, and the choice is ambiguous.
    """
    for _ in range(_DEEPEST):
        inner = _inner(content, where) if isinstance(content, Mapping) else None
        if inner is None:
            return content
        content = inner
    return content


def without_prefixes(state: Mapping[str, Tensor], names: Collection[str] = ()) -> dict[str, Tensor]:
    """Return a state dict with names as a network itself has them, without ``module.`` and ``_orig_mod.``.

    Args:
        state: the state dict.
        names: names of the network, if they are known; a state dict of just these stays as it is.
    """
    if state.keys() == set(names):
        return dict(state)
    found = dict(state)
    averaged = _COUNT in found and all(k.startswith(_PARALLEL) for k in found if k != _COUNT)
    if averaged and len(found) > 1:
        del found[_COUNT]
    while True:
        renamed = {k.replace(_COMPILED, ""): v for k, v in found.items()}
        if renamed and all(k.startswith(_PARALLEL) for k in renamed):
            renamed = {k.removeprefix(_PARALLEL): v for k, v in renamed.items()}
        if len(renamed) < len(found):  # two names would be one
            return dict(state)
        if renamed.keys() == found.keys():
            return renamed
        found = renamed
        if found.keys() == set(names):
            return found


def is_state_dict(value: object) -> bool:
    """Say whether a value is a dict of tensors by names."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _inner(content: Mapping[str, Any], where: str) -> Mapping[str, Any] | None:
    """Return the entry that holds the weights, or None when there is no entry that does."""
    if is_state_dict(content):
        return None
    found = [k for k, v in content.items() if isinstance(k, str) and _holds_weights(v)]
    averaged = [k for k in found if any(word in k.lower() for word in _AVERAGED)]
    named = [k for k in found if k.lower() in _WEIGHTS and k not in averaged]
    if not named and any(isinstance(v, Tensor) for v in content.values()):
        return None  # a state dict that has something else in it
    chosen = named if named and not averaged else found
    if len(chosen) > 1:
        raise InputError(
            "several state dicts in one file",
            where=where,
            expected="one",
            got=", ".join(f"{k!r:.40}" for k in found[:8]),
            mend="save the intended one on its own",
        )
    return content[chosen[0]] if chosen else None


def _holds_weights(value: object, depth: int = 0) -> bool:
    if is_state_dict(value):
        return True
    inner = value.items() if isinstance(value, Mapping) and depth < _DEEPEST else ()
    return any(isinstance(k, str) and _holds_weights(v, depth + 1) for k, v in inner)
