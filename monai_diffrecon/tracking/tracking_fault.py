# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What is said when tracking fails."""

from __future__ import annotations

import sqlite3
import sys

from monai_diffrecon.errors import DiffReconError, ResourceError
from monai_diffrecon.tracking.redaction import redact

_MAX_TEXT = 300


def refused(error: Exception) -> ResourceError:
    """Return the error of one line for whatever MLflow, its database or the network raised."""
    root = root_of(error)
    return ResourceError(
        f"MLflow refused ({type(root).__name__})",
        where="tracking",
        got=first_line(root if isinstance(root, OSError | sqlite3.OperationalError) else error),
        mend="check the store, or switch tracking off",
    )


def cause(error: BaseException) -> str:
    """Return the class of what is at the root of an error, ``ConnectionRefusedError`` for instance."""
    return type(root_of(error)).__name__


def root_of(error: BaseException) -> BaseException:
    """Return what is at the root of an error: MLflow wraps whatever it meets in one class of its own."""
    under_way = sys.exc_info()[1]  # an error that a ``with`` block is being left by is not the cause of this one
    seen = [error]
    while True:
        last = seen[-1]
        deeper = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if deeper is None or any(deeper is one for one in seen) or (deeper is under_way and under_way is not error):
            break
        if isinstance(deeper, KeyError | AttributeError):  # a look-up that was tried on the way
            break
        seen.append(deeper)
    return next((one for one in reversed(seen) if not isinstance(one, DiffReconError)), error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text without paths and URLs."""
    lines = str(error).strip().splitlines()
    return str(redact(lines[0])[:_MAX_TEXT]) if lines else type(error).__name__
