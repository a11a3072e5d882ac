# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Expect an error by its fields; its wording is in ``tests/errors/wording.json`` alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from monai_diffrecon.errors import DiffReconError


@contextmanager
def raises(kind: type[DiffReconError], **fields: Any) -> Iterator[pytest.ExceptionInfo]:
    """Expect an error with these fields: ``raises(InputError, where="sampler#steps", got=0)``.

    Fields are compared as text; ``...`` stands for any text, so that ``got=...`` only asks that something was got.
    """
    with pytest.raises(kind) as caught:
        yield caught
    found = {name: getattr(caught.value, name) for name in fields}
    wanted = {k: found[k] if v is ... and found[k] is not None else v for k, v in fields.items()}
    assert {k: str(v) for k, v in found.items()} == {k: str(v) for k, v in wanted.items()}, caught.value
