# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""An error wrapped by another library is still one line with its own exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from monai_diffrecon.errors import DiffReconError, InputError
from monai_diffrecon.one_line_errors import chain_of

PROGRAM = """
from monai_diffrecon.errors import {error}
from monai_diffrecon.one_line_errors import report_errors_in_one_line

report_errors_in_one_line()
report_errors_in_one_line()
try:
    raise {error}("spoilt", where="image")
except Exception as reason:
    raise RuntimeError("Failed to evaluate 'run'") {link}
"""


def end_of(program: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("link", ["from reason", ""])
@pytest.mark.parametrize(("error", "code"), [("InputError", 2), ("IntegrityError", 4), ("NumericalError", 5)])
def test_the_cause_is_reported(error: str, code: int, link: str) -> None:
    assert end_of(PROGRAM.format(error=error, link=link)) == (code, "error: image: spoilt\n")


def test_a_defect_keeps_its_traceback() -> None:
    code, text = end_of(
        PROGRAM.replace('{error}("spoilt", where="image")', "KeyError(1)").format(error="InputError", link="")
    )
    assert code == 1
    assert "Traceback" in text
    assert "KeyError" in text
    assert "RuntimeError" in text


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = InputError("a"), DiffReconError("b")
    first.__cause__, second.__cause__ = second, first
    assert list(chain_of(first)) == [first, second]
