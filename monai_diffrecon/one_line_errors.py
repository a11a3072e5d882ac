# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""One line and the right exit code for an error that another library has wrapped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import TracebackType

from monai_diffrecon.errors import DiffReconError


def report_errors_in_one_line() -> None:
    """Make an uncaught :class:`DiffReconError` of this process one line on stderr and its exit code.

    MONAI's ``ConfigParser`` wraps whatever a component raises in a ``RuntimeError``, so ``python -m monai.bundle
    run`` would end in a long traceback and exit code 1. A bundle calls this from ``initialize``, which MONAI runs
    first. Any other exception keeps its traceback; a second call changes nothing.
    """
    previous = sys.excepthook
    if getattr(previous, "one_line_errors", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        for cause in chain_of(error):
            if isinstance(cause, DiffReconError):
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
