# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Checks at run time that plugins keep their contract; errors name the plugin."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from monai_diffrecon.engine.memory.out_of_memory import is_out_of_memory
from monai_diffrecon.errors import DiffReconError, PluginError
from monai_diffrecon.protocols import ConsistencyStep, Plugin, SamplerState

T = TypeVar("T")
P = TypeVar("P", bound=Plugin)

_HOOKS = ("on_estimate", "on_iterate", "on_result")


def named_call(call: Callable[[], T], where: str) -> T:
    """Return ``call()``; unexpected exceptions become errors that name the plugin.

    Args:
        call: calls a method of the plugin.
        where: the plugin, for messages.

    Raises:
        DiffReconError: as the call raises it; out-of-memory errors likewise.
        PluginError: any other exception, with its type and place only, since its text may quote the data.
    """
    try:
        return call()
    except DiffReconError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise PluginError(
            "fails",
            where=where,
            got=f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}",
            mend="report it to its author, or use another plugin",
        ) from error


def checked_call(call: Callable[[Tensor], object], x: Tensor, where: str) -> Tensor:
    """Return ``call(x)``, which must be a tensor like ``x``, and leave ``x`` as it was.

    Args:
        call: the plugin's method.
        x: a volume (C, X, Y, Z).
        where: the plugin, for messages.

    Raises:
        PluginError: the call fails, does not return such a tensor, or writes to ``x``.
    """
    version = x._version
    out = named_call(lambda: call(x), where)
    if x._version != version:
        raise PluginError(
            "writes into the volume it was given", where=where, mend="work on a copy (x.clone()) or out of place"
        )
    return check_like(out, x, where)


def check_like(out: object, x: Tensor, where: str) -> Tensor:
    """Return ``out`` if it is a tensor of the shape, data type and device of ``x``.

    Raises:
        PluginError: it is not.
    """
    if not isinstance(out, Tensor):
        raise PluginError("returns no tensor", where=where, expected=_kind(x), got=type(out).__name__)
    if out.shape != x.shape or out.dtype != x.dtype or out.device != x.device:
        raise PluginError("returns another kind of volume", where=where, expected=_kind(x), got=_kind(out))
    return out


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)} on {x.device}"


def copied(plugin: P) -> P:
    """Return a shallow copy of a plugin, and of the plugins it holds.

    A run binds to the copy, so the plugin can be reused, even by two runs at the same time.
    """
    return _copied(plugin, {})


def _copied(value: Any, known: dict[int, Any]) -> Any:
    if type(value) in (list, tuple):
        inner = [_copied(item, known) for item in value]
        return value if all(a is b for a, b in zip(inner, value, strict=True)) else type(value)(inner)
    if not isinstance(value, Plugin):
        return value
    if id(value) not in known:
        known[id(value)] = own = copy.copy(value)
        vars(own).update({name: _copied(inner, known) for name, inner in vars(value).items()})
    return known[id(value)]


def watched(step: ConsistencyStep, corrected: Callable[[Tensor, str], None]) -> ConsistencyStep:
    """Return a copy of a consistency step that checks what its hooks return; the step itself stays as it is.

    The copy's class overrides only the hooks that the step's class has, since samplers test for them.

    Args:
        step: the step.
        corrected: called with each volume that a hook returned, and the hook's name.
    """
    cls: type[ConsistencyStep] = type(step)
    where = f"consistency {cls.__name__}"

    def hook(name: str) -> Callable[[ConsistencyStep, Tensor, SamplerState], Tensor]:
        inner = getattr(cls, name)

        def call(self: ConsistencyStep, x: Tensor, state: SamplerState) -> Tensor:
            done = checked_call(lambda x: inner(self, x, state), x, f"{where}, {name}")
            corrected(done, name)
            return done

        return call

    members: dict[str, Any] = {n: hook(n) for n in _HOOKS if getattr(cls, n) is not getattr(ConsistencyStep, n)}
    if cls.guidance is not ConsistencyStep.guidance:
        members["guidance"] = lambda self, *given: named_call(lambda: cls.guidance(self, *given), f"{where}, guidance")
    members["reads_iterate"] = cls.reads_iterate
    own = copied(step)
    own.__class__ = type(cls.__name__, (cls,), members)
    return own
