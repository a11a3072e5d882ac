# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Checks of the options a user gives: one line of code for each, one line of error for each."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

from monai_diffrecon.errors import ConfigError, InputError

if TYPE_CHECKING:
    import torch


def path_option(value: object, where: str) -> Path:
    """Return a path that the operating system can look for, ``~`` replaced by the home folder.

    No message repeats it: it may name a patient.

    Args:
        value: what the user gave.
        where: the config id for messages.

    Raises:
        InputError: no text, an empty one, or no path that can exist or be looked at.
    """
    if not isinstance(value, str | Path):
        raise _no_path(where, f"a value of the type {type(value).__name__}")
    if not str(value).strip():
        raise _no_path(where, "an empty text")
    if "\0" in str(value):
        raise _no_path(where, "a text with a null character")
    try:
        path = Path(value).expanduser()
        os.fsencode(path)  # half a character, which JSON can hold
        path.exists()
    except RuntimeError:
        raise _no_path(where, "a ~ of which no home folder is known") from None
    except OSError as error:
        raise _no_path(where, f"one of which the system says: {error.strerror}") from None
    except UnicodeError:
        raise _no_path(where, "a text that is no name of a file") from None
    return path


def _no_path(where: str, got: str) -> InputError:
    return InputError("not a path", where=where, expected="the path of a file or folder", got=got)


_FLAGS = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}


def check_number(
    value: object, where: str, *, low: float = -math.inf, high: float = math.inf, open_low: bool = False
) -> float:
    """Return a finite number of the range as a float.

    Args:
        value: what the user gave.
        where: the config id for messages.
        low: smallest allowed value.
        high: largest allowed value.
        open_low: ``low`` itself is excluded.

    Raises:
        ConfigError: no number (a bool is none), not finite, or out of range.
    """
    if not isinstance(value, bool) and isinstance(value, Real):
        try:
            number = float(value)
        except OverflowError:  # an integer beyond all floats
            number = math.inf
        if math.isfinite(number) and low <= number <= high and not (open_low and number == low):
            return number
    lower = f" {'above' if open_low else 'from'} {low:g}" if low > -math.inf else ""
    upper = f" up to {high:g}" if high < math.inf else ""
    raise ConfigError("out of range", where=where, expected=f"a finite number{lower}{upper}", got=repr(value))


def check_integer(value: object, where: str, *, low: int, high: int | None = None) -> int:
    """Return a whole number from ``low`` to ``high``.

    Raises:
        ConfigError: no integer (neither a bool nor 2.0 is one), or out of the range.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < low or int(value) > (high or value):
        upper = "" if high is None else f" up to {high}"
        raise ConfigError("out of range", where=where, expected=f"an integer from {low}{upper}", got=repr(value))
    return int(value)


def check_flag(value: object, where: str) -> bool:
    """Return a truth value: true, false, True, False, 0 or 1, as a word too, which Python takes for true.

    Raises:
        ConfigError: something else.
    """
    if isinstance(value, bool | int | str) and str(value) in _FLAGS:
        return _FLAGS[str(value)]
    raise ConfigError("not a boolean", where=where, expected="true or false", got=repr(value))


def check_choice(value: object, where: str, choices: Sequence[str]) -> str:
    """Return a word that is one of ``choices``.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, str) or value not in choices:
        raise ConfigError("unknown choice", where=where, expected=" or ".join(choices), got=repr(value))
    return value


def check_sigma_range(sigma_min: object, sigma_max: object, where: str) -> tuple[float, float]:
    """Return the smallest and the largest noise level of a network.

    Raises:
        ConfigError: not ``0 < sigma_min < sigma_max``.
    """
    low = check_number(sigma_min, f"{where}#sigma_min", low=0.0, open_low=True)
    return low, check_number(sigma_max, f"{where}#sigma_max", low=low, open_low=True)


def check_device(device: torch.device | str | None, where: str) -> torch.device | str | None:
    """Return a device as it was given; None: where the weights are. ``cuda`` is the own GPU of a ``torchrun`` process.

    Raises:
        ConfigError: torch knows no such device, or this machine has none.
    """
    import torch  # slow to import, and the command line has none of it

    try:
        there = device is None or torch.device(device).type != "cuda" or torch.cuda.is_available()
    except (RuntimeError, TypeError):
        there = False
    if not there:
        raise ConfigError(
            "no such device", where=where, expected="cpu, or cuda:0 if CUDA is available", got=repr(device)
        )
    local = os.environ.get("LOCAL_RANK", "")
    return f"cuda:{local}" if str(device) == "cuda" and local.isdigit() else device
