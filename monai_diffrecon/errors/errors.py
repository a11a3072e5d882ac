# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The exception tree: every user error states what is wrong, where, the expected and the actual value, and the fix."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

#: Characters of a line, and of each part of a longer one.
_LONGEST_LINE, _LONGEST_PART = 590, 110


class DiffReconError(Exception):
    """Base of all errors raised on purpose; the command line turns it into one line and an exit code.

    Args:
        what: what is wrong, one clause without a full stop.
        where: the configuration id, file or component concerned, for instance ``prior#K``.
        expected: what would have been right.
        got: what was found instead.
        mend: the fix, one imperative clause; printed after ``Fix:``.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: object | None = None,
        got: object | None = None,
        mend: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.got, self.mend = what, where, expected, got, mend
        parts = [_one_line(part) for part in (what, where, expected, got, mend)]
        line = _joined(*parts)
        if len(line) > _LONGEST_LINE:  # what someone else wrote is in it, a value of a config or of a file
            line = _joined(*(p if p is None or len(p) <= _LONGEST_PART else f"{p[:_LONGEST_PART]}..." for p in parts))
        super().__init__(line)

    def move(self, where: str) -> None:
        """Replace the first part of the configuration id by ``where``: a plugin does not know where it stands.

        ``sampler#rho`` at ``sampler#start`` becomes ``sampler#start#rho``. A component that is no id stays.

        Args:
            where: full id of the plugin that raised.
        """
        first, _, option = (self.where or "").partition("#")
        if option or first in ("", where.partition("#")[0]):
            full = f"{where}#{option}" if option else where
            mend = self.mend.replace(f"{first}#", f"{where}#") if first and self.mend else self.mend
            DiffReconError.__init__(self, self.what, where=full, expected=self.expected, got=self.got, mend=mend)


def _one_line(part: object) -> str | None:
    return None if part is None else " ".join(str(part).split())


def _joined(what: str | None, where: str | None, expected: str | None, got: str | None, mend: str | None) -> str:
    line = f"{where}: {what}" if where else f"{what}"
    if expected is not None:
        line += f"; expected {expected}"
    if got is not None:
        line += f"{',' if expected is not None else ';'} got {got}"
    return line + (f". Fix: {mend}" if mend else "")


class InputError(DiffReconError):
    """A file, tensor or value handed in is wrong."""

    exit_code = 2


class ConfigError(DiffReconError):
    """An option or a combination of options is wrong."""

    exit_code = 2


class ResumeMismatchError(DiffReconError):
    """A checkpoint belongs to another configuration, measurement or version."""

    exit_code = 3


class IntegrityError(DiffReconError):
    """A hash, signature or safety check failed."""

    exit_code = 4


class NumericalError(DiffReconError):
    """A computation produced a non-finite value, or diverged."""

    exit_code = 5


class ResourceError(DiffReconError):
    """Memory, disk space or time is insufficient."""

    exit_code = 6


class BusyError(ResourceError):
    """Another process is doing the same work."""


class PluginError(DiffReconError):
    """A plugin is missing, broken, ambiguous or violates its contract."""

    exit_code = 7


def common_kind(codes: Collection[int]) -> type[DiffReconError]:
    """Return a kind of error with the exit code that several failures share, or the most general kind."""
    kinds = (kind for kind in DiffReconError.__subclasses__() if {kind.exit_code} == set(codes))
    return next(kinds, DiffReconError)
