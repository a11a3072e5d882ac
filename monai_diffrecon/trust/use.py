# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""One thing that a bundle would import or execute."""

from __future__ import annotations

from dataclasses import dataclass

#: Package of what Python itself can do: names such as ``eval``, attributes such as ``__globals__``.
BUILTINS = "builtins"


@dataclass(frozen=True)
class Use:
    """One thing that a bundle would import or execute.

    Attributes:
        where: config id, behind the file that holds it, such as ``inference.json#network_def``.
        kind: ``target``, ``import``, ``expression``, ``logging``, ``macro`` (another
            configuration), ``module`` (a file of Python code) or ``file`` (one that cannot be read).
        text: as the bundle writes it.
        name: dotted name of what is reached, such as ``torch.hub.load``.
        origin: the same after following imports within a package, such as ``os.system`` for ``torch.os.system``.
        fault: why it can never be trusted by naming a package, or None.
    """

    where: str
    kind: str
    text: str
    name: str
    origin: str = ""
    fault: str | None = None

    @property
    def package(self) -> str:
        """Top-level package of what is reached; that of another configuration is the bundle itself."""
        if self.kind == "macro":
            return "(bundle)"
        return (self.origin or self.name).partition(".")[0]


def one_line(text: str, longest: int | None = None) -> str:
    """Return a foreign text in one line, without what a terminal would act on.

    Args:
        text: any text.
        longest: characters to keep.
    """
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if longest is None or len(plain) <= longest else f"{plain[: longest - 3]}..."
