# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Decides whether a bundle's uses are trusted, by the table of allowed names and the user's additions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from monai_diffrecon.bundle.inspection.allowed import ALLOWED, allowed, may_be_bound
from monai_diffrecon.bundle.inspection.locate import NotTrustedError, exists, is_constant, locate, without
from monai_diffrecon.bundle.inspection.use import PYTHON, Use, parts_of
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.registry.contract import KINDS

#: Environment variable with further packages, separated by commas.
VARIABLE = "DIFFRECON_TRUST"
_TABLE = frozenset(module.partition(".")[0] for module in ALLOWED)


@dataclass(frozen=True)
class Refusal:
    """Why a use is refused.

    Attributes:
        reason: one clause.
        trust: what would have to be trusted, or None when nothing helps.
    """

    reason: str
    trust: str | None = None

    @property
    def mend(self) -> str:
        """What to do about it."""
        if self.trust is None:
            return "do not run it; ask its author for a bundle without it"
        if self.trust == PYTHON:  # it allows everything
            return f"do not run it (--trust {PYTHON}, or {VARIABLE}={PYTHON}, would allow it to do anything)"
        return f"give --trust {self.trust}, or set {VARIABLE}={self.trust}, if you trust its author"


@dataclass(frozen=True)
class Policy:
    """Whom to trust.

    Attributes:
        plugins: top-level packages of installed plugins.
        explicit: dotted names that the user named. A package of the table is not widened by its mere name:
            ``torch.hub`` opens that module, ``torch`` opens nothing.
        root: folder of the bundle; nothing in it is imported.
    """

    plugins: tuple[str, ...] = ()
    explicit: tuple[str, ...] = ()
    root: Path | None = None

    def refusal(self, use: Use) -> Refusal | None:
        """Return why a use is refused, or None when it is trusted."""
        if use.kind == "expression" and PYTHON in self.explicit and (use.fault or use.package == PYTHON):
            return None
        if use.fault is not None:
            return Refusal(use.fault)
        if use.kind == "macro":  # another file of the bundle, which is inspected as well
            return None
        if use.kind == "module":
            return None if self._named(use.name) else Refusal("the bundle's own code", use.package)
        return self._judge(use)

    def _judge(self, use: Use) -> Refusal | None:
        parts = parts_of(use.name)
        package, written = parts[0], ".".join(parts)
        if not self._opens(package):
            return Refusal(f"{package} is not trusted", package)
        if package not in _TABLE and not exists(package, self.root):
            # Nothing that could run, or code of the bundle itself, which the user has to name.
            named = self._named(written) or package in self.plugins
            return None if named else Refusal(f"{package} is not trusted", package)
        if any(part.startswith("_") for part in parts) and not self._named(written):
            return Refusal("a private name of a trusted package", written)
        try:
            thing, module, name = locate(parts, self._opens, self.root)
        except NotTrustedError as error:
            return Refusal(f"{error} is not trusted", str(error))
        except LookupError as error:
            return Refusal(f"{written} {error}")
        if isinstance(thing, ModuleType):
            return self._module(module, use.kind)
        if is_constant(thing):
            return Refusal(f"{written} is not a class or function") if use.kind == "target" else None
        full = f"{module}.{name}"
        if self._named(full) or below(full, self.plugins) or allowed(module, name):
            return None
        return Refusal(f"{full} is not allowed in bundles", full)

    def _module(self, module: str, kind: str) -> Refusal | None:
        if kind != "import":  # MONAI would hand on the module itself, and with it all that it holds
            return Refusal("passes on a whole module")
        if self._named(module) or below(module, self.plugins) or may_be_bound(module):
            return None
        return Refusal(f"{module} is not allowed in bundles", module)

    def _opens(self, package: str) -> bool:
        """Return whether a top-level package may be imported to see what is in it."""
        return package in _TABLE or package in self.plugins or any(w.split(".")[0] == package for w in self.explicit)

    def _named(self, name: str) -> bool:
        return below(name, (word for word in self.explicit if word not in _TABLE))


def policy_for(trust: Iterable[str] = (), root: str | Path | None = None) -> Policy:
    """Return the policy of this process.

    Args:
        trust: packages that the user trusts, beside those of the variable ``DIFFRECON_TRUST``.
        root: folder of the bundle that is judged.

    Raises:
        ConfigError: not a package name.
    """
    words = [word.strip() for word in os.environ.get(VARIABLE, "").split(",")]
    explicit = dict.fromkeys([*(w for w in words if w), *trust])
    for word in explicit:
        if not all(part.isidentifier() for part in word.split(".")):
            raise ConfigError("not a package name", where="--trust", got=repr(word), mend="give one, such as scipy")
    folder = None if root is None else Path(root)
    with without(folder):  # a bundle may pose as an installed plugin package
        return Policy(plugin_packages(), tuple(explicit), folder)


def plugin_packages() -> tuple[str, ...]:
    """Return the top-level packages of the installed plugins: naming a plugin runs them anyway."""
    installed = entry_points()  # read once, since it opens a file of each distribution
    points = (point for kind in KINDS for point in installed.select(group=f"monai_diffrecon.{kind}"))
    return tuple(sorted({point.module.partition(".")[0] for point in points} - _TABLE))


def below(name: str, prefixes: Iterable[str]) -> bool:
    """Return whether a dotted name is one of these or lies below it."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
