# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""One line and the right exit code for an error that another library has wrapped."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import TracebackType
from typing import Any

from monai_diffrecon.errors import ConfigError, DiffReconError


def report_errors_in_one_line() -> None:
    """Make an uncaught :class:`DiffReconError` of this process one line on stderr and its exit code.

    MONAI's ``ConfigParser`` wraps whatever a component raises in a ``RuntimeError``, so ``python -m monai.bundle
    run`` would end in a long traceback and exit code 1. A bundle calls this from ``initialize``, which MONAI runs
    first. So is a mistyped option of one of our components. Any other exception keeps its traceback; a second call
    changes nothing.
    """
    previous = sys.excepthook
    if getattr(previous, "one_line_errors", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        cause = users_error(error)
        if cause is not None:
            sys.stderr.write(f"error: {cause}\n")
            # Python takes the exit code from a SystemExit that leaves the hook.
            raise SystemExit(cause.exit_code)
        previous(kind, error, trace)

    hook.one_line_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what caused it, outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def users_error(error: BaseException) -> DiffReconError | None:
    """Return the error of ours that an exception comes from, or None for a defect.

    Options that a component of ours does not have are an error of ours too, although Python finds them, and MONAI
    reports them, before any of our code runs.
    """
    chain = list(chain_of(error))
    ours = next((cause for cause in chain if isinstance(cause, DiffReconError)), None)
    if ours is not None or not any(isinstance(cause, TypeError) for cause in chain):
        return ours
    for cause in chain:
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            item: Any = frame.f_locals.get("self")
            if frame.f_code.co_name == "instantiate" and hasattr(item, "resolve_module_name"):
                where = str(item.get_id()).replace("::", "#")  # as users write it
                wrong = _wrong_options(where, item.resolve_module_name(), item.resolve_args())
                if wrong is not None:
                    return wrong
    return None


def _wrong_options(where: str, target: object, options: Mapping[str, Any]) -> ConfigError | None:
    """Return what is wrong with the names of the options of a component of ours, or None.

    Args:
        where: the config id of the component.
        target: its ``_target_``, in full.
        options: what the configuration gives it.
    """
    module, _, name = str(target).rpartition(".")
    component = getattr(sys.modules.get(module), name, None) if f"{module}.".startswith("monai_diffrecon.") else None
    if not callable(component):
        return None
    parameters = inspect.signature(component).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return None
    for option in options:
        if option not in parameters:
            close = get_close_matches(option, list(parameters), n=1)
            return ConfigError(
                f"{name} has no such option",
                where=f"{where}#{option}",
                expected=", ".join(parameters),
                mend=f"did you mean {close[0]!r}?" if close else "leave it out",
            )
    missing = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n not in options]
    return ConfigError(f"{name} lacks an option", where=where, expected=", ".join(missing)) if missing else None
