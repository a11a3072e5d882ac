# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Log records whose text is changed before any handler sees it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_change: ContextVar[Callable[[str], str] | None] = ContextVar("change of log records", default=None)


@contextmanager
def logs_through(change: Callable[[str], str]) -> Iterator[None]:
    """Pass the text of what this thread logs within through a function, whichever logger it goes to.

    A filter would have to sit on every logger or every handler, and those of plugins are not known; Python's own
    place for it is the factory of records. It is wrapped once; other threads are not concerned.

    Args:
        change: gets the text of a record, returns another.
    """
    _install()
    token = _change.set(change)
    try:
        yield
    finally:
        _change.reset(token)


def _install() -> None:
    made = logging.getLogRecordFactory()
    if getattr(made, "changes_text", False):
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = made(*args, **kwargs)
        change = _change.get()
        if change is not None:
            record.msg, record.args = change(record.getMessage()), ()
        return record

    factory.changes_text = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)
