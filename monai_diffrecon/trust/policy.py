# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What is trusted without being asked for, and what a user trusts beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.plugin_contract import KINDS
from monai_diffrecon.trust.use import BUILTINS, Use

#: Environment variable with further packages, separated by commas.
VARIABLE = "DIFFRECON_TRUST"
#: Packages, and single names of packages, that a bundle may use.
TRUSTED = ("functools.partial", "ignite", "math", "monai", "monai_diffrecon", "numpy", "pathlib.Path", "torch")
#: What in them runs code that a string or a file names, starts processes, or writes files of one's choice.
DENIED = (
    "ignite.distributed",
    *("monai.apps", "monai.auto3dseg", "monai.bundle", "monai.fl", "monai.losses.perceptual"),
    *("monai.utils.component_store", "monai.utils.jupyter_utils", "monai.utils.misc.run_cmd", "monai.utils.module"),
    *("monai.utils.safeeval", "monai.utils.state_cacher", "monai.data.utils.pickle_operations"),
    *("monai_diffrecon.__main__", "monai_diffrecon.cli", "monai_diffrecon.importing", "monai_diffrecon.io.atomic"),
    *("monai_diffrecon.io.zip_members", "monai_diffrecon.trust"),
    *("numpy.DataSource", "numpy.core", "numpy.ctypeslib", "numpy.distutils", "numpy.f2py", "numpy.fromfile"),
    *("numpy.fromregex", "numpy.genfromtxt", "numpy.load", "numpy.loadtxt", "numpy.memmap", "numpy.ndarray.tofile"),
    *("numpy.rec", "numpy.save", "numpy.savetxt", "numpy.savez", "numpy.savez_compressed", "numpy.testing"),
    *(
        "numpy.lib.format",
        "numpy.lib.npyio",
        "numpy.lib._npyio_impl",
        "numpy.lib._format_impl",
        "numpy.lib._datasource",
    ),
    *("numpy._core.memmap", "numpy._core.records"),
    *("torch.classes", "torch.compile", "torch.distributed", "torch.export", "torch.from_file", "torch.fx"),
    *("torch.hub", "torch.jit", "torch.library", "torch.load", "torch.multiprocessing", "torch.onnx", "torch.ops"),
    *("torch.package", "torch.save", "torch.serialization", "torch.storage", "torch.testing"),
    *("torch.utils.bottleneck", "torch.utils.collect_env", "torch.utils.cpp_extension", "torch.utils.hipify"),
    *("torch.utils.data.datapipes", "torch.utils.model_zoo"),
)


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
            return "do not run it; ask its author for a bundle without"
        if self.trust == BUILTINS:  # it allows everything
            return f"do not run it (--trust {BUILTINS}, or {VARIABLE}={BUILTINS}, would allow it to do anything)"
        return f"give --trust {self.trust}, or set {VARIABLE}={self.trust}, if you trust its author"


@dataclass(frozen=True)
class Policy:
    """Whom to trust.

    Attributes:
        trusted: dotted names; all below them is trusted, but for what :data:`DENIED` lists.
        explicit: dotted names that the user named. Only these overrule :data:`DENIED`, and only when they are as
            narrow: ``torch.hub`` does, ``torch`` does not.
    """

    trusted: tuple[str, ...] = TRUSTED
    explicit: tuple[str, ...] = ()

    def refusal(self, use: Use) -> Refusal | None:
        """Return why a use is refused, or None when it is trusted."""
        if use.fault is not None:
            return Refusal(use.fault)
        if use.kind == "macro":  # another file of the bundle, which is inspected as well
            return None
        reached, names = use.origin or use.name, (use.name, use.origin or use.name)
        if use.kind == "module":
            return None if below(use.name, self.explicit) else Refusal("the bundle's own code", use.package)
        if not (self._trusts(reached) or (self._trusts(use.name) and use.name.split(".")[0] == use.package)):
            return Refusal(f"{use.package} is not trusted", use.package)
        for denied in sorted(DENIED, key=lambda d: not below(use.name, (d,))):
            hit = any(below(name, (denied,)) for name in names)
            if hit and not any(below(e, (denied,)) and any(below(n, (e,)) for n in names) for e in self.explicit):
                return Refusal(f"{denied} is refused, although {denied.partition('.')[0]} is trusted", denied)
        return Refusal("a private name of a trusted package", use.name) if self._private(use.name) else None

    def _trusts(self, name: str) -> bool:
        return below(name, self.trusted) or below(name, self.explicit)

    def _private(self, name: str) -> bool:
        hidden = any(part.startswith("_") for part in name.split("."))
        return hidden and not below(name, self.explicit)


def policy_for(trust: Iterable[str] = ()) -> Policy:
    """Return the policy of this process.

    Args:
        trust: packages that the user trusts, beside those of the variable ``DIFFRECON_TRUST``.

    Raises:
        ConfigError: what is no name of a package.
    """
    words = [word.strip() for word in os.environ.get(VARIABLE, "").split(",")]
    explicit = dict.fromkeys([*(w for w in words if w), *trust])
    for word in explicit:
        if not all(part.isidentifier() for part in word.split(".")):
            raise ConfigError("no name of a package", where="--trust", got=repr(word), mend="name one, such as scipy")
    return Policy((*TRUSTED, *plugin_packages()), tuple(explicit))


def plugin_packages() -> tuple[str, ...]:
    """Return the top-level packages of the installed plugins: naming a plugin runs them anyway."""
    found = {
        point.module.partition(".")[0] for kind in KINDS for point in entry_points(group=f"monai_diffrecon.{kind}")
    }
    return tuple(sorted(found))


def below(name: str, prefixes: Iterable[str]) -> bool:
    """Return whether a dotted name is one of these or lies below it."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
