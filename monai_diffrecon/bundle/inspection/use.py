# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""One thing that a bundle would import or execute."""

from __future__ import annotations

from dataclasses import dataclass

#: Package of what Python itself can do.
PYTHON = "builtins"


@dataclass(frozen=True)
class Use:
    """One thing that a bundle would import or execute.

    Attributes:
        where: config id, behind the file that holds it, such as ``inference.json#network_def``.
        kind: ``target``, ``import``, ``expression``, ``logging``, ``macro`` (another
            configuration), ``module`` (a file of Python code) or ``file`` (one that cannot be read).
        text: as the bundle writes it.
        name: dotted name of the target, such as ``torch.hub.load``.
        fault: why it can never be trusted by naming a package, or None.
    """

    where: str
    kind: str
    text: str
    name: str
    fault: str | None = None

    @property
    def package(self) -> str:
        """Top-level package of what is reached; that of another configuration is the bundle itself."""
        return "(bundle)" if self.kind == "macro" else self.name.lstrip(".").partition(".")[0]


def parts_of(name: str) -> list[str]:
    """Return the parts of a dotted name as ``pydoc.locate``, which MONAI uses, sees them: empty ones do not count."""
    return [part for part in name.split(".") if part]


def one_line(text: str, longest: int | None = None) -> str:
    """Return a foreign text in one line, without what a terminal would act on.

    Args:
        text: any text.
        longest: characters to keep.
    """
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if longest is None or len(plain) <= longest else f"{plain[: longest - 3]}..."
